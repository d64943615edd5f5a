"""What of the first half runs on the device that serves: placement, precisions, rungs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labs.lab4_model_serving.model_stages import EAGER, FUSED, HALF, INT8, ONNX, REDUCED, path_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from common.runner import Run
    from labs.lab4_model_serving.config import Config
    from labs.lab4_model_serving.model_stages import Trained
    from labs.lab4_model_serving.parity_report import Artefact


def placement(run: Run, trained: Trained, artefacts: Mapping[str, Artefact]) -> None:
    """Where float16 is served: how many kernels of a run, its and INT8's, are left to the CPU."""
    from labs.lab4_model_serving.ort_options import SessionSettings
    from labs.lab4_model_serving.ort_profile import profile_model
    from labs.lab4_model_serving.tokens import pad

    if HALF not in artefacts:
        return
    inputs = [pad(trained.ids[at : at + 8]) for at in range(0, 80, 8)]
    how = f"a run over 8 texts on {run.device}, from ONNX Runtime's profile"
    for name in REDUCED:
        placed = profile_model(
            path_of(artefacts[name]),
            inputs,
            run.work / "placement",
            settings=SessionSettings(device=run.device),
        ).placement
        total, left = sum(placed.values()), placed.get("CPUExecutionProvider", 0.0)
        area = f"placement.{name.lower()}"
        run.metric(f"{area}_kernels", total, unit="kernels", how=how)
        run.metric(f"{area}_kernels_on_cpu", left, unit="kernels", how=how)
        print(f"  {name} on {run.device}: {left:.0f} of {total:.0f} kernels on the CPU", flush=True)


def precisions_on_device(
    run: Run, config: Config, trained: Trained, artefacts: Mapping[str, Artefact]
) -> None:
    """Where float16 is served: it, float32 and INT8, fused, by batch size on that device."""
    from labs.lab4_model_serving.figures_quantization import draw_crossover
    from labs.lab4_model_serving.precision_crossover import measure_crossover, text_batcher

    if HALF not in artefacts:
        return
    forms = {"fp32": FUSED, "fp16": HALF, "int8_dynamic": INT8}
    crossover = measure_crossover(
        {name: path_of(artefacts[form]) for name, form in forms.items()},
        text_batcher(trained.ids, max(config.crossover_batches)),
        batches=config.crossover_batches,
        rounds=config.crossover_rounds,
        device=run.device,
    )
    for cell in crossover.cells():
        run.metric(
            f"on_device.{cell.precision}_us_batch_{cell.batch}",
            cell.median_us,
            unit="us",
            n=cell.rounds,
            how=f"median over rounds, an item, fused, on {run.device}",
        )
    run.figure(
        "crossover_on_device",
        draw_crossover(crossover, title=f"Time an item by batch size, on {run.device}"),
        caption=f"The same on {run.device}, fused models: microseconds a text by precision and "
        "batch size. Where INT8 has no kernels, its nodes run on the CPU with copies around them.",
    )


def on_device(
    trained: Trained, artefacts: Mapping[str, Artefact], served: str, device: str
) -> dict[str, Artefact]:
    """The rungs' forms on their device: on a GPU those that run there as they would be served.

    Left out are TorchScript, whose constants were frozen on the CPU, and INT8 unless it is served.
    """
    from copy import deepcopy
    from dataclasses import replace

    from labs.lab4_model_serving.artefacts import onnx_artefact, torch_predict

    if device == "cpu":
        return dict(artefacts)
    model = deepcopy(trained.model).to(device).eval()
    found = {EAGER: replace(artefacts[EAGER], predict=torch_predict(model, device=device))}
    for name in dict.fromkeys((ONNX, FUSED, served)):
        found[name] = onnx_artefact(name, path_of(artefacts[name]), device=device)
    return found
