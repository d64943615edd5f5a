"""What the tests of a fixed horizon need, measured on simulated truth: one call for the run."""

from __future__ import annotations

from dataclasses import dataclass

from labs.lab6_online_eval.bayesian import BayesStudy, study_bayes
from labs.lab6_online_eval.clustered import FewClusters, study_few_clusters
from labs.lab6_online_eval.multiple_testing import FamilyErrors, study_multiple_testing


@dataclass(frozen=True)
class SignificanceStudy:
    """Families of metrics, numbers of clusters, and priors: see the studies of each."""

    families: tuple[FamilyErrors, ...]
    clusters: tuple[FewClusters, ...]
    bayes: BayesStudy

    def family(
        self, procedure: str, n_metrics: int, n_real: int, correlation: float = 0.0
    ) -> float:
        """The family-wise error rate of one procedure on one family."""
        return next(
            row.fwer
            for row in self.families
            if (row.procedure, row.n_metrics, row.n_real, row.correlation)
            == (procedure, n_metrics, n_real, correlation)
        )


def study_significance(*, n: int = 4000, seed: int = 0) -> SignificanceStudy:
    """All three.

    Parameters
    ----------
    n
        Simulated experiments of each kind, at least 100; ten times as many for the priors.
    """
    return SignificanceStudy(
        families=study_multiple_testing(n=n, seed=seed),
        clusters=study_few_clusters(n=n, seed=seed),
        bayes=study_bayes(n=10 * n, seed=seed),
    )
