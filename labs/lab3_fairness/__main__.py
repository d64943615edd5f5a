"""Lab 3: an audit that would hold up in a review, and what it costs to close the gaps it finds."""

from __future__ import annotations

from common.runner import Run, main
from labs.lab3_fairness.claims import CLAIMS, FULL_DATA
from labs.lab3_fairness.config import SCALES, Config


def story(run: Run, config: Config) -> None:
    """Check the tools, look at the data, audit, search, mitigate, explain, calibrate, decide."""
    from labs.lab3_fairness import audit_stages as look
    from labs.lab3_fairness import model_stages as model

    with run.stage("Known answers: COMPAS, FICO, and why the definitions collide", key="known"):
        look.known_answers(run, config)
    with run.stage("Are the tools right? Coverage, nulls, slices put there", key="tools"):
        look.tools(run, config)
    with run.stage(
        "Before any model: who is in the data, and what gives the group away", key="data"
    ):
        look.data_bias(run, config)
    with run.stage("Adult and COMPAS: audit the decisions", key="audit"):
        adult = model.train_adult(run, config)
        look.audits(run, config, adult)
    with run.stage("Search for the worst slices, confirm on held-out rows", key="slices"):
        look.worst_slices(run, config, adult)
    with run.stage("Mitigate: data, training, decision rule", key="mitigation"):
        model.mitigate(run, config, adult)
    with run.stage("Explain, and test the explanations", key="explanations"):
        model.explain(run, config, adult)
    with run.stage("Take away what the explanation names; and attention", key="faithfulness"):
        model.look_inside(run, config, adult)
    with run.stage("Calibration and uncertainty by group", key="calibration"):
        model.calibration(run, config, adult)
    with run.stage("Rankings: exposure and its price", key="ranking"):
        look.rankings(run, config)
    with run.stage("The gate, and the model card", key="card"):
        look.gate(run, config, adult)
        look.card(run)
    if config.rows:
        for claim in FULL_DATA:
            run.unmeasured(claim, f"this run used {config.rows} training rows; --rows 0 uses all")


if __name__ == "__main__":
    main(
        "lab3_fairness",
        SCALES,
        story,
        title="Lab 3: fairness, bias and interpretability",
        claims=CLAIMS,
        reading=(
            "Verma, Rubin: Fairness Definitions Explained (2018), "
            "https://fairware.cs.umass.edu/papers/Verma.pdf",
            "Hardt, Price, Srebro: Equality of Opportunity in Supervised Learning (2016), "
            "https://arxiv.org/abs/1610.02413",
            "Barocas, Hardt, Narayanan: Fairness and Machine Learning, https://fairmlbook.org",
            "DiCiccio et al.: Evaluating Fairness Using Permutation Tests (2020), "
            "https://arxiv.org/abs/2007.05124",
            "Cruz, Hardt: Unprocessing Seven Years of Algorithmic Fairness (2024), "
            "https://arxiv.org/abs/2306.07261",
            "Mitchell et al.: Model Cards for Model Reporting (2019), "
            "https://arxiv.org/abs/1810.03993",
        ),
    )
