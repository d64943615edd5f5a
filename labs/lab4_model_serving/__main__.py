"""Lab 4: from a trained model to a served one: how fast, how sure, how safe, at what price."""

from __future__ import annotations

from common.runner import Run, main
from labs.lab4_model_serving.claims import CLAIMS
from labs.lab4_model_serving.config import SCALES, Config, for_device


def story(run: Run, config: Config) -> None:
    """Train, convert, prove equal, quantize, serve, overload, roll out, scale, break, watch."""
    from labs.lab4_model_serving import device_stages as device
    from labs.lab4_model_serving import model_stages as model
    from labs.lab4_model_serving import operation_stages as operate
    from labs.lab4_model_serving import serving_stages as serve
    from labs.lab4_model_serving.report import the_table, what_this_scale_leaves_out

    run.results.config = config = for_device(config, run.device)
    with run.stage("Train the classifier, or take it from the cache", key="train"):
        trained = model.train(run, config)
    with run.stage("Export: TorchScript, torch.export, ONNX, fused, quantized", key="export"):
        artefacts = model.convert(run, config, trained)
    with run.stage("The gate: every form answers as PyTorch does", key="parity"):
        model.parity(run, trained, artefacts)
    with run.stage("ONNX Runtime: the graph, and where a run's time goes", key="runtime"):
        model.runtime(run, trained, artefacts)
        device.placement(run, trained, artefacts)
    with run.stage("Precision by batch size, with accuracy and bytes", key="precision"):
        model.precisions(run, config, trained, artefacts)
        device.precisions_on_device(run, config, trained, artefacts)
    with run.stage("The ladder: what each step buys, in this process", key="ladder"):
        rungs = model.climb(run, config, trained, artefacts)
    with run.stage("Pack both versions", key="bundle"):
        bundles = model.bundles(run, config, trained, artefacts)
    with run.stage("Batches: what one costs, what the queueing model says", key="batching"):
        serve.batching(run, bundles[-1], trained.judged)
    with run.stage("How much load can be made here", key="generator"):
        operate.generator(run)
    with (
        run.stage("TorchServe: the highest rate within the limit", key="serve"),
        serve.on_torchserve(run, config, bundles[-1]) as server,
    ):
        served = serve.load_torchserve(run, config, server, bundles[-1], trained.judged)
    with run.stage("The lab's own server: its rate, and an overload", key="overload"):
        own = serve.own_server(run, config, bundles[-1], trained.judged)
    the_table(run, config, rungs, served, own)
    with run.stage("Roll out a good, a slow and a wrong version", key="rollout"):
        serve.roll_out(run, config, bundles, trained.judged)
    with run.stage("Balance and scale", key="scaling"):
        operate.balance_and_scale(run, config)
    if config.faults_s:
        with run.stage("Kill a worker, the JVM, a replica", key="faults"):
            operate.break_things(run, config, bundles[-1], trained.judged)
    with run.stage("Watch: buckets, fleets, alerts, Prometheus", key="watch"):
        operate.watch(run)
    with run.stage("What a million requests cost", key="cost"):
        operate.pay(run, served)
    what_this_scale_leaves_out(run, config)


if __name__ == "__main__":
    main(
        "lab4_model_serving",
        SCALES,
        story,
        title="Lab 4: model serving and production inference",
        claims=CLAIMS,
        reading=(
            "Dean, Barroso: The Tail at Scale (2013), "
            "https://research.google/pubs/the-tail-at-scale/",
            "MLPerf Inference: the Server scenario, "
            "https://github.com/mlcommons/inference_policies/blob/master/inference_rules.adoc",
            "Tene: How NOT to Measure Latency (2015)",
            "Jacob et al.: Quantization and Training of Neural Networks for Efficient "
            "Integer-Arithmetic-Only Inference (2018), https://arxiv.org/abs/1712.05877",
            "Crankshaw et al.: Clipper (2017), https://arxiv.org/abs/1612.03079",
            "Beyer et al.: The Site Reliability Workbook, chapter 5, "
            "https://sre.google/workbook/alerting-on-slos/",
        ),
    )
