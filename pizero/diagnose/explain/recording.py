"""An explanation as a Rerun recording; the only file that knows `rerun`."""

from __future__ import annotations

from pathlib import Path

from pizero.diagnose.explain.inputs import seen
from pizero.diagnose.explain.measured import Measured
from pizero.policy.policy import Policy

TICK = "tick"


def write_rerun(measured: Measured, policy: Policy, path: Path) -> None:
    """Write pictures and prompts as the model reads them, and recorded and predicted actions, as `.rrd`.

    On the timeline `tick`, each sample's chunk takes `horizon` ticks; samples follow one another in order,
    with one tick between them. ModuleNotFoundError names the extra if Rerun is not installed.
    """
    try:
        import rerun  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "writing a Rerun recording needs Rerun's SDK: `pip install 'pizero[rerun]'`"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    names = [dimension.name for dimension in policy.contract.embodiment.actions]
    stream = rerun.RecordingStream("pizero explain", recording_id=policy.contract.sha256)
    stream.save(partial)
    for place, inputs in enumerate(seen(policy, measured.samples)):
        sample, first = measured.samples[place], place * (policy.contract.horizon + 1)
        stream.set_time(TICK, sequence=first)
        for picture in inputs.pictures:
            if picture.valid:
                stream.log(f"model/camera/{picture.slot}", rerun.Image(picture.pixels))
        stream.log("model/prompt", rerun.TextDocument(f"{inputs.prompt}\n(frame {inputs.frame})"))
        stream.log("model/state", rerun.Scalars(list(inputs.state)))
        for step in range(policy.contract.horizon):
            stream.set_time(TICK, sequence=first + step)
            for index, name in enumerate(names):
                predicted = float(measured.predicted[place, step, index])
                stream.log(f"actions/{name}/predicted", rerun.Scalars(predicted))
                if sample.valid[step]:
                    recorded = float(sample.actions[step, index])
                    stream.log(f"actions/{name}/recorded", rerun.Scalars(recorded))
    stream.disconnect()
    partial.replace(path)
