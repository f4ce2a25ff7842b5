"""The 50 manipulation tasks of Meta-World v3 (Yu et al., 2019; a Sawyer arm in MuJoCo) as environments.

The cameras are chosen and the pictures drawn here: Meta-World's own renderer takes about ten times longer.
"""

import atexit
import os
import sys
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from pizero.envs.environment import Step
from pizero.names import nearest
from pizero.robots import METAWORLD, Camera, Embodiment
from pizero.types import Observation

NATIVE_RATE = 80.0
"""Physics ticks per second: Meta-World takes one action every 12.5 ms."""

NATIVE_MAX_TICKS = 500
"""Meta-World's own limit on an episode, in physics ticks."""

Difficulty = Literal["easy", "medium", "hard", "very hard"]


@dataclass(frozen=True)
class Task:
    """A task in words, its difficulty in the split of Seo et al. (2023, appendix), and a factor on
    its expert's motion, before clipping: most experts head for their goal at full speed.
    """

    instruction: str
    difficulty: Difficulty
    pace: float = 1.0


TASKS: Mapping[str, Task] = {
    "assembly": Task("put the ring on the peg", "hard"),
    "basketball": Task("dunk the basketball into the basket", "medium"),
    "bin-picking": Task("move the block from one bin to the other bin", "medium"),
    "box-close": Task("put the lid on the box", "medium"),
    "button-press": Task("press the button from the front", "easy"),
    "button-press-topdown": Task("press the button from the top", "easy"),
    "button-press-topdown-wall": Task("reach over the wall and press the button from the top", "easy"),
    "button-press-wall": Task("reach over the wall and press the button from the front", "easy"),
    "coffee-button": Task("press the button of the coffee machine", "easy"),
    "coffee-pull": Task("pull the mug away from the coffee machine", "medium"),
    "coffee-push": Task("push the mug under the coffee machine", "medium"),
    "dial-turn": Task("turn the dial", "easy"),
    "disassemble": Task("take the ring off the peg", "very hard"),
    "door-close": Task("close the door", "easy"),
    "door-lock": Task("lock the door", "easy"),
    "door-open": Task("open the door", "easy"),
    "door-unlock": Task("unlock the door", "easy"),
    "drawer-close": Task("close the drawer", "easy"),
    "drawer-open": Task("open the drawer", "easy"),
    "faucet-close": Task("close the faucet", "easy"),
    "faucet-open": Task("open the faucet", "easy"),
    "hammer": Task("hammer the nail into the wall", "medium"),
    "hand-insert": Task("put the block into the hole", "hard"),
    "handle-press": Task("press the handle down", "easy"),
    "handle-press-side": Task("press the handle down from the side", "easy"),
    "handle-pull": Task("pull the handle up", "easy"),
    "handle-pull-side": Task("pull the handle up from the side", "easy"),
    "lever-pull": Task("pull the lever up", "easy"),
    "peg-insert-side": Task("insert the peg into the hole in the side", "medium"),
    "peg-unplug-side": Task("pull the plug out of the side", "easy"),
    "pick-out-of-hole": Task("pick the puck out of the hole", "hard"),
    "pick-place": Task("pick up the puck and hold it at the goal", "hard"),
    "pick-place-wall": Task("pick up the puck and carry it over the wall to the goal", "very hard"),
    "plate-slide": Task("slide the plate forward into the goal", "easy"),
    "plate-slide-back": Task("slide the plate back out of the goal", "easy"),
    "plate-slide-back-side": Task("slide the plate back out of the goal to the side", "easy"),
    "plate-slide-side": Task("slide the plate sideways into the goal", "easy"),
    "push": Task("push the puck to the goal", "hard"),
    "push-back": Task("pull the block back to the goal", "hard"),
    "push-wall": Task("push the puck around the wall to the goal", "medium"),
    "reach": Task("reach the red ball", "easy", pace=4.0),
    "reach-wall": Task("reach the red ball behind the wall", "easy"),
    "shelf-place": Task("put the block on the shelf", "very hard"),
    "soccer": Task("push the ball into the soccer goal", "medium"),
    "stick-pull": Task("pull the thermos with the stick", "very hard"),
    "stick-push": Task("push the thermos with the stick", "very hard"),
    "sweep": Task("sweep the block off the table", "medium"),
    "sweep-into": Task("sweep the block into the hole", "medium"),
    "window-close": Task("close the window", "easy"),
    "window-open": Task("open the window", "easy"),
}
"""Every task by its Meta-World name without the `-v3`."""


@dataclass(frozen=True, kw_only=True)
class View:
    """A camera outside the robot: the point it looks at, its distance in m, and its angles in degrees.

    `azimuth` turns the line of sight counter-clockwise from +x; a negative `elevation` looks down. The
    vertical field of view is MuJoCo's default of 45 degrees.
    """

    lookat: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float


VIEWS: Mapping[str, View] = {
    "right": View(lookat=(0.0, 0.70, 0.17), distance=1.08, azimuth=145.0, elevation=-32.0),
    "left": View(lookat=(0.0, 0.70, 0.17), distance=1.08, azimuth=15.0, elevation=-30.0),
}
"""Two views at nearly a right angle, from the robot's right shoulder and from its left side.

The arm hides the hand from neither. A camera of an embodiment bears one of these names, or that of one of
Meta-World's own cameras (`corner2`, `gripperPOV`, ...), of which the corner cameras hang upside down.
"""

UNSEEN_GROUP = 5
"""MuJoCo's group of geometries that `VIEWS` leave out: what lies outside of them, and the floor."""

UNSEEN_BODIES = frozenset(
    {"controller_box", "pedestal_feet", "pedestal", "right_arm_base_link", "right_l0", "right_l1", "head"}
)

FILM_CAMERA = Camera(name="right", height=360, width=480)
"""The camera of `MetaWorld.picture`."""


class MetaWorld:
    """One Meta-World task, driven at the embodiment's control rate; implements `Environment`.

    An action is held for 80 / rate physics ticks. `state` is the hand's position in m and the gripper's
    opening as a fraction; the goal's position is in neither state nor instruction. What follows `reset(seed)`
    depends on the seed and the actions alone. Actions beyond [-1, 1] are clipped. Start parallel environments
    in spawned, not forked, processes: graphics contexts do not survive a fork.

    Raises ValueError for an unknown task or camera, a rate that does not divide 80 Hz, or an embodiment
    without Meta-World's four state and four action dimensions.
    """

    default_embodiment: ClassVar[Embodiment] = METAWORLD

    def __init__(
        self, task: str, *, embodiment: Embodiment = METAWORLD, max_steps: int | None = None
    ) -> None:
        if task not in TASKS:
            raise ValueError(f"unknown Meta-World task {task!r}: {nearest(task, TASKS)}")
        if embodiment.state_dim != 4 or embodiment.action_dim != 4:
            raise ValueError(
                f"Meta-World has 4 state and 4 action dimensions, but the embodiment {embodiment.name!r} has "
                f"{embodiment.state_dim} and {embodiment.action_dim}: start from pizero.robots.METAWORLD"
            )
        self.task = task
        self.embodiment = embodiment
        self.instruction = TASKS[task].instruction
        self.action_repeat = _ticks_per_step(embodiment.rate)
        self.max_steps = NATIVE_MAX_TICKS // self.action_repeat if max_steps is None else max_steps
        if self.max_steps < 1:
            raise ValueError(f"max_steps must be at least 1, found {max_steps}")

        mujoco, task_classes, expert_classes = _import_simulator()
        self._mujoco = mujoco
        self._expert_class = expert_classes[f"{task}-v3"]
        self._model = task_classes[f"{task}-v3"]().model
        self._initial_positions = (self._model.body_pos.copy(), self._model.site_pos.copy())
        self._simulation_class = _sharing_model(task_classes[f"{task}-v3"], self._model, mujoco.MjData)
        self._painter = _Painter(mujoco, self._model, embodiment.cameras)
        self._film_painter: _Painter | None = None
        self._simulation: Any = None
        self._num_steps = 0

    def reset(self, seed: int) -> Observation:
        """Start the episode of that seed (any integer from 0) and return its first observation."""
        if seed < 0:
            raise ValueError(f"a seed must be 0 or more, found {seed}")
        # Meta-World leaves traces of an episode in the model and in its own attributes; a new simulation on
        # the compiled model, with the few positions that tasks move put back, costs 1 ms and has none.
        self._model.body_pos[:], self._model.site_pos[:] = self._initial_positions
        simulation = self._simulation_class()
        simulation._partially_observable = False
        simulation.__dict__.pop("sawyer_observation_space", None)
        simulation._set_task_called = True
        simulation._freeze_rand_vec = False
        simulation.seeded_rand_vec = True
        simulation.max_path_length = self.max_steps * self.action_repeat + 1
        simulation.seed(seed)
        simulation.reset()
        # Tasks place their objects in the model after the last physics step of their reset.
        self._mujoco.mj_forward(self._model, simulation.data)
        simulation._prev_obs = simulation._get_curr_obs_combined_no_goal()
        space = simulation.sawyer_observation_space
        self._simulation = simulation
        self._privileged = np.clip(simulation._get_obs(), space.low, space.high)
        self._expert = self._expert_class()
        self._num_steps = 0
        return self.observe()

    def step(self, action: Float32[np.ndarray, "action_dim"], *, render: bool = True) -> Step:
        """Hold the action for one control period; `success` if the simulator reports it at any tick."""
        self._check_started()
        if self._num_steps >= self.max_steps:
            raise ValueError(f"the episode ended after max_steps = {self.max_steps} steps: call reset(seed)")
        if action.shape != (4,) or not np.isfinite(action).all():
            raise ValueError(f"an action is 4 finite numbers, found {action!r}")
        command = np.clip(action.astype(np.float64), -1.0, 1.0)
        success = False
        for _ in range(self.action_repeat):
            self._privileged, _, _, _, info = self._simulation.step(command)
            success = success or bool(info["success"])
        self._num_steps += 1
        return Step(
            observation=self.observe() if render else None,
            success=success,
            done=self._num_steps >= self.max_steps,
        )

    def observe(self) -> Observation:
        """Render and return the present, without moving time."""
        self._check_started()
        images = self._painter.paint(self._simulation.data)
        return Observation(images=images, state=self.state(), instruction=self.instruction)

    def state(self) -> Float32[np.ndarray, "state_dim"]:
        """Return the state of the present, without rendering."""
        return self._privileged[:4].astype(np.float32)

    def expert_action(self) -> Float32[np.ndarray, "action_dim"]:
        """Return what the scripted expert, which sees the goal, does now: at the task's pace, in [-1, 1]."""
        self._check_started()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Constant")  # about gains whose result is clipped here
            action = self._expert.get_action(self._privileged)
        action[:3] *= TASKS[self.task].pace
        return np.clip(action, -1.0, 1.0).astype(np.float32)

    def picture(self) -> UInt8[np.ndarray, "height width 3"]:
        """Render the present for people to look at: larger and smoother than what the policy sees."""
        self._check_started()
        if self._film_painter is None:
            self._film_painter = _Painter(self._mujoco, self._model, (FILM_CAMERA,), num_samples=4)
        return self._film_painter.paint(self._simulation.data)[FILM_CAMERA.name]

    def close(self) -> None:
        """Free the renderers; calling it twice is harmless."""
        self._painter.close()
        if self._film_painter is not None:
            self._film_painter.close()

    def _check_started(self) -> None:
        if self._simulation is None:
            raise ValueError("the environment has no episode yet: call reset(seed) first")


class _Painter:
    """Draws a model's cameras without shadows and reflections; `num_samples` > 0 smooths edges."""

    def __init__(self, mujoco: Any, model: Any, cameras: tuple[Camera, ...], num_samples: int = 0) -> None:
        self._mujoco = mujoco
        self._model = model
        for geometry in range(model.ngeom):
            body = model.body(model.geom_bodyid[geometry]).name
            if body in UNSEEN_BODIES or model.geom(geometry).name == "floor":
                model.geom_group[geometry] = UNSEEN_GROUP
        self._cameras = {camera.name: self._camera(camera.name) for camera in cameras}
        self._sizes = {camera.name: (camera.height, camera.width) for camera in cameras}

        model.vis.quality.offsamples = num_samples
        model.vis.quality.shadowsize = 0
        model.vis.global_.offheight = max(camera.height for camera in cameras)
        model.vis.global_.offwidth = max(camera.width for camera in cameras)
        self._graphics, self._context = _graphics_contexts(mujoco, model)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        # Registered after MuJoCo's exit handler, hence run before it: contexts must go before the display.
        self._free = weakref.finalize(self, _free, self._graphics, self._context)
        self._free.atexit = False
        atexit.register(self._free)

        self._scene = mujoco.MjvScene(model, maxgeom=1000)
        self._scene.flags[:] = 0
        self._scene.flags[mujoco.mjtRndFlag.mjRND_CULL_FACE] = 1
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = 1
        self._perturbation = mujoco.MjvPerturb()

    def paint(self, data: Any) -> dict[str, UInt8[np.ndarray, "height width 3"]]:
        """Return one picture per camera."""
        if not self._free.alive:
            raise ValueError("the environment is closed: make a new one")
        mujoco = self._mujoco
        self._graphics.make_current()
        images = {}
        for name, (camera, option) in self._cameras.items():
            height, width = self._sizes[name]
            viewport = mujoco.MjrRect(0, 0, width, height)
            image = np.empty((height, width, 3), np.uint8)
            mujoco.mjv_updateScene(
                self._model, data, option, self._perturbation, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene
            )
            mujoco.mjr_render(viewport, self._scene, self._context)
            mujoco.mjr_readPixels(image, None, viewport, self._context)
            images[name] = np.ascontiguousarray(image[::-1])  # OpenGL's first row is the lowest
        return images

    def close(self) -> None:
        self._free()
        atexit.unregister(self._free)

    def _camera(self, name: str) -> tuple[Any, Any]:
        """Return MuJoCo's camera and visual options for one of `VIEWS` or of the model's cameras."""
        mujoco, model = self._mujoco, self._model
        camera, option = mujoco.MjvCamera(), mujoco.MjvOption()
        native_names = [model.camera(index).name for index in range(model.ncam)]
        if name in VIEWS:
            view = VIEWS[name]
            camera.type = mujoco.mjtCamera.mjCAMERA_FREE
            camera.lookat[:] = view.lookat
            camera.distance, camera.azimuth, camera.elevation = view.distance, view.azimuth, view.elevation
        elif name in native_names:
            camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            camera.fixedcamid = native_names.index(name)
            option.geomgroup[UNSEEN_GROUP] = 1
        else:
            raise ValueError(f"Meta-World has no camera {name!r}: {nearest(name, [*VIEWS, *native_names])}")
        return camera, option


def _ticks_per_step(rate: float) -> int:
    ticks = round(NATIVE_RATE / rate) if rate > 0 else 0
    if ticks < 1 or ticks * rate != NATIVE_RATE:
        raise ValueError(
            f"Meta-World runs at {NATIVE_RATE:g} Hz and repeats each action a whole number of times, which a "
            f"control rate of {rate:g} Hz does not allow: use a divisor such as 80, 40, 20 or 10 Hz"
        )
    return ticks


def _sharing_model(task_class: Any, model: Any, new_data: Any) -> Any:
    """Return the task's class with its slowest part, compiling the model, replaced by an existing model."""

    class Simulation(task_class):
        def _initialize_simulation(self) -> tuple[Any, Any]:
            return model, new_data(model)

    return Simulation


def _import_simulator() -> tuple[Any, Any, Any]:
    """Return MuJoCo and Meta-World's task and expert classes; choose off-screen rendering on a server."""
    if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
        os.environ.setdefault("MUJOCO_GL", "egl")
    # Pictures this small are drawn fastest by Mesa's software renderer on the calling thread.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    try:
        import mujoco
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    except (ImportError, AttributeError, OSError) as error:  # PyOpenGL without its library
        raise _no_graphics() from error
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        from metaworld.policies import ENV_POLICY_MAP
    except ModuleNotFoundError as error:
        raise _not_installed(error) from error
    return mujoco, ALL_V3_ENVIRONMENTS, ENV_POLICY_MAP


def _graphics_contexts(mujoco: Any, model: Any) -> tuple[Any, Any]:
    try:
        graphics = mujoco.GLContext(model.vis.global_.offwidth, model.vis.global_.offheight)
        graphics.make_current()
        context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
    except (ImportError, AttributeError, OSError, RuntimeError, mujoco.FatalError) as error:
        raise _no_graphics() from error
    return graphics, context


def _not_installed(error: ModuleNotFoundError) -> ModuleNotFoundError:
    return ModuleNotFoundError(
        f"Meta-World needs the module {error.name!r}: pip install pizero[metaworld]", name=error.name
    )


def _no_graphics() -> RuntimeError:
    return RuntimeError(
        "MuJoCo found no way to render off screen: on Debian or Ubuntu install "
        "`libegl1 libgl1-mesa-dri libopengl0` and set MUJOCO_GL=egl before Python starts "
        f"(now MUJOCO_GL={os.environ.get('MUJOCO_GL', '')!r})"
    )


def _free(graphics: Any, context: Any) -> None:
    graphics.make_current()
    context.free()
    graphics.free()
