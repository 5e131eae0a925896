"""A trained policy without a connection: `Policy("runs/0001")`, with numpy alone.

    policy = Policy("runs/0001")           # a run's folder, or one checkpoint
    action = policy.act(observation)       # what `myriad evaluate` would do
    policy.refresh()                       # a newer checkpoint, should there be one

Nothing comes back: a run does not train on what a Policy of a checkpoint does. `Client(..., acts=True)` has the Policy of the
moment, and the run trains on what that does.
"""
import json
import math
import pathlib
import struct
import tomllib

import numpy as np

from myriad_client import spaces

MODULE = "learner_group/modules/default_policy.safetensors"
CONNECTORS = "learner_group/connectors.safetensors"
SPEC = "learner_group/module.json"  # checkpoints of older versions, all of MLPs, have none
ELEMENTS = {"F32": "<f4", "F64": "<f8", "U8": "u1", "I32": "<i4", "I64": "<i8"}
MASKED = np.float32(-1e30)  # kMaskedLogit of rl/module_spec.hpp: exp(MASKED - x) is 0
SQUASHED_BOUND, BETA_BOUND = np.float32(1 - 1e-6), np.float32(1e-6)  # of drawn actions: rl/module_spec.hpp
ERF = np.vectorize(math.erf, otypes=[np.float64])
ACTIVATIONS = {
    "linear": lambda x: x,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * (0.5 + 0.5 * np.tanh(0.5 * x)),
    "gelu": lambda x: (0.5 * x * (1 + ERF(x * 0.70710678))).astype(np.float32),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
}


class Policy:
    """`path`: a run's folder (its newest checkpoint) or one checkpoint. `seed`: of sampled actions.

    Raises ValueError for what is no checkpoint, or a broken one. Observations are those of the spaces of the config, after the
    wrappers: with frame_stack the caller stacks. Time limits and frame_skip are the caller's, too.
    """

    def __init__(self, path, *, seed: int | None = None):
        self.path = pathlib.Path(path)
        self.random = np.random.default_rng(seed)
        self.checkpoint: pathlib.Path | None = None  # the one that is loaded
        if not self.refresh():
            raise ValueError(f"{self.path} is no checkpoint, and no run that has one")

    @classmethod
    def of_weights(cls, weights, observation, action, *, seed: int | None = None) -> "Policy":
        """The policy of a Weights message of docs/protocol.md, for these spaces."""
        policy = cls.__new__(cls)
        policy.path = policy.checkpoint = None
        policy.random = np.random.default_rng(seed)
        policy.set_weights(weights, observation, action)
        return policy

    def set_weights(self, weights, observation, action) -> None:
        module, connectors = (data.tobytes() for data in (weights.ParametersAsNumpy(), weights.ConnectorsAsNumpy()))
        config = tomllib.loads(weights.Config().decode())
        self._put_together(config, observation, action, read_safetensors(module, "the weights' module"),
                           read_safetensors(connectors, "the weights' connectors"), json.loads(spec) if (spec := weights.Network()) else None)
        self.version = weights.Version()

    def refresh(self) -> bool:
        """Loads the newest checkpoint; False where it is loaded already. A run may write and remove them meanwhile. After a
        ValueError the policy is what it was."""
        if (self.path / "MANIFEST.json").exists():
            newest = [self.path]
        else:
            newest = sorted(self.path.glob("checkpoints/[0-9]*"), reverse=True)
        for checkpoint in newest:
            if checkpoint == self.checkpoint:
                return False
            before = vars(self).copy()
            try:
                self._load(checkpoint)
                return True
            except Exception as error:
                vars(self).update(before)
                if not isinstance(error, FileNotFoundError):
                    raise
                if (checkpoint / "MANIFEST.json").exists():
                    raise ValueError(f"{checkpoint} is not whole, or older than spaces.json: let this version of Myriad save another") from None
        return False  # those that were seen are gone: the next call finds what came after them

    def act(self, observation, *, explore: bool = False):
        """What to do: the likeliest action (of Q-values: the best), or with `explore` one drawn as the policy draws it."""
        return self.draw(observation, explore=explore)[0]

    def draw(self, observation, *, explore: bool = True):
        """What to do; the same as the policy draws it, for a Box before it is stretched and clipped; what it was drawn from."""
        inputs = self.action_dist_inputs(observation)
        parts = np.split(inputs, np.cumsum([head.inputs for head in self._heads])[:-1])
        drawn = [head.draw(part, self.random, self._epsilon, explore) for head, part in zip(self._heads, parts)]
        actions = [head.given(value) for head, value in zip(self._heads, drawn)]
        return spaces.value_from(self.action, iter(actions)), spaces.value_from(self.action, iter(drawn)), inputs

    def drawn(self, action):
        """An action as the policy would have drawn it. Raises spaces.DoesNotFit for one that is not of the space."""
        values = spaces.values_of(self.action, action)
        return spaces.value_from(self.action, (head.drawn(value) for head, value in zip(self._heads, values)))

    def allows(self, observation, action) -> bool:
        """Whether the observation's action_mask, where it has one, allows this action."""
        return allows(self.observation, self.action, observation, action)

    def action_dist_inputs(self, observation) -> np.ndarray:
        """The parameters of the distribution of actions: logits or Q-values (MASKED for one that the observation's action_mask forbids), or
        means and then log standard deviations, or what makes a Beta's alphas and then its betas; of a Dict or Tuple those of each leaf."""
        x = flat(self._codec, observation)
        mask = None if self._mask is None else x[self._mask]
        if self._filter is not None:
            shift, scale, clip = self._filter
            x = np.clip((x - shift) * scale, -clip, clip)
        given = {"obs": x}  # by what networks read
        for name, inputs, layers in self._networks:
            x = np.concatenate([given[input] for input in inputs])
            for layer in layers:
                x = layer(x)
            given[name] = x
        if mask is not None and not all(part.any() for part in np.split(mask, np.cumsum(spaces.choices_of(self.action))[:-1])):
            raise ValueError("the observation's action_mask allows no action")
        parts = np.split(x, np.cumsum([head.outputs for head in self._heads])[:-1])
        inputs = []
        for head, part in zip(self._heads, parts):
            own, mask = (None, None) if mask is None else np.split(mask, [sum(head.groups)])
            inputs.append(head.inputs_of(part, own, self._log_std_clip))
        return np.concatenate(inputs)

    # --- how ---

    def _load(self, checkpoint: pathlib.Path) -> None:
        listed = {file["name"]: file["bytes"] for file in json.loads((checkpoint / "MANIFEST.json").read_bytes())["files"]}

        def read(name: str) -> bytes:
            data = (checkpoint / name).read_bytes()
            if len(data) != listed.get(name):
                raise ValueError(f"{checkpoint / name} has {len(data)} bytes, want {listed.get(name)}: the checkpoint is broken")
            return data

        config = tomllib.loads(read("config.toml").decode())
        said = json.loads(read("spaces.json"))
        tensors = read_safetensors(read(MODULE), str(checkpoint / MODULE))
        connectors = read_safetensors(read(CONNECTORS), str(checkpoint / CONNECTORS))
        spec = json.loads(read(SPEC)) if SPEC in listed else None
        self._put_together(config, space_of(said["observation"]), space_of(said["action"]), tensors, connectors, spec)
        self.checkpoint = checkpoint

    def _put_together(self, config: dict, observation, action, module: dict[str, np.ndarray], connectors: dict[str, np.ndarray],
                      spec: dict | None = None) -> None:
        self.observation, self.action = observation, action
        self._codec = spaces.Codec(observation, "obs")
        if spec is None:
            spec = mlp_of(config["rl_module"], observation, action)
        try:
            self._set_module(spec, module)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{SPEC} is not as this version wants it: {error!r}") from None
        self._set_connectors(config["environment"], connectors)

    def _set_module(self, spec: dict, tensors: dict[str, np.ndarray]) -> None:
        """The networks of a module.json that act (rl/module_json.cpp); the last of them is pi."""
        size = size_of(self.observation)
        if spec["obs_size"] != size:
            raise ValueError(f"the module takes {spec['obs_size']} features, the observations have {size}")
        leaves, parts = spaces.leaves_of(self.action), spec["distribution"].get("parts", [spec["distribution"]])
        if len(parts) != len(leaves):
            raise ValueError(f"the module has {len(parts)} parts of an action, the actions want {len(leaves)}")
        self._heads = [Head(leaf, part) for leaf, part in zip(leaves, parts)]
        acting = [network for network in spec["networks"] if network["acts"]] if "networks" in spec else unnamed_networks(spec)
        last, wanted = acting[-1]["layers"][-1], sum(head.outputs for head in self._heads)
        if (outputs := last.get("outputs", last.get("size"))) != wanted:
            raise ValueError(f"the module has {outputs} outputs, the actions want {wanted}")

        def take(name: str, *shape: int) -> np.ndarray:
            if name not in tensors or tensors[name].shape != shape:
                raise ValueError(f"the module has {name} {tensors[name].shape if name in tensors else 'not'}, want {shape}")
            return tensors[name]

        open_blocks: list[np.ndarray] = []  # of the row that is on its way: residual blocks
        streams: list[np.ndarray] = []  # what the network reads, then what its streams that are over gave
        self._networks = []  # name, inputs, layers
        for network in acting:
            name, inputs, layers = network["name"], network["inputs"], network["layers"]
            names = [name] if len(layers) == 1 and set(inputs) - {"obs"} else [f"{name}.{i}" for i in range(len(layers))]
            self._networks.append((name, inputs, [layer_of(*both, take, open_blocks, streams) for both in zip(names, layers)]))
        offset = spec.get("mask_offset", -1)
        self._mask = None if offset < 0 else slice(offset, offset + sum(spaces.choices_of(self.action)))
        self._log_std_clip = np.float32(spec["log_std_clip"])
        free = [head for head in self._heads if head.free]
        if free:
            deviations = take("log_std", sum(head.outputs for head in free))
            for head, own in zip(free, np.split(deviations, np.cumsum([head.outputs for head in free])[:-1])):
                head.log_std = own

    def _set_connectors(self, config: dict, connectors: dict[str, np.ndarray]) -> None:
        """The filter of observations and the range of actions, as rl/connector.cpp; the epsilon of a Q-network's policy."""
        self._epsilon = float(connectors["epsilon"][0]) if "epsilon" in connectors else None
        self._filter = None
        if config["observation_filter"] == "MeanStdFilter":
            count, (mean, m2) = connectors["mean_std_filter"][0], np.split(connectors["mean_std_filter"][1:], 2)
            if count >= 2:
                scale = 1 / np.maximum(np.sqrt(m2 / (count - 1)), 1e-4)
                if self._mask is not None:
                    mean, scale = mean.copy(), scale.copy()
                    mean[self._mask], scale[self._mask] = 0, 1
                self._filter = mean.astype(np.float32), scale.astype(np.float32), np.float32(config["observation_clip"])
        for head in self._heads:
            head.set_range(config["normalize_actions"], config["clip_actions"])


class Head:
    """What draws one leaf of the actions: `space`, from `inputs` numbers, of which `outputs` come from the network."""

    def __init__(self, space, distribution: dict):
        self.space, self.kind = space, distribution.get("kind", "")
        self.is_box = isinstance(space, spaces.Box) and not spaces.is_whole(space)  # of real numbers
        self.groups = spaces.choices_of(space)  # the number of logits of each choice
        size = math.prod(space.shape) if self.is_box else 0
        self.free = self.is_box and self.kind != "beta" and distribution["free_log_std"]
        self.inputs = 2 * size if self.is_box else sum(self.groups)
        self.outputs = size if self.free else self.inputs
        self.log_std: np.ndarray | None = None  # where it is a parameter

    def set_range(self, normalize: bool, clips: bool) -> None:
        """[-1, 1] is stretched to a Box's bounds, and what lies outside them clipped, as rl/connector.cpp does."""
        if not self.is_box:
            return
        low, high = map(np.ravel, spaces.bounds_of(self.space))
        bounded = np.isfinite(low) & np.isfinite(high) & normalize
        with np.errstate(invalid="ignore", over="ignore"):
            self.scale = np.where(bounded, (high - low) / 2, 1).astype(np.float32)
            self.offset = np.where(bounded, (high + low) / 2, 0).astype(np.float32)
            self.low, self.high = np.where(clips, low, -math.inf).astype(np.float32), np.where(clips, high, math.inf).astype(np.float32)

    def inputs_of(self, outputs: np.ndarray, mask: np.ndarray | None, clip: np.float32) -> np.ndarray:
        if not self.is_box:
            return outputs if mask is None else np.where(mask != 0, outputs, MASKED)
        if self.kind == "beta":
            return outputs
        mean, log_std = (outputs, self.log_std) if self.free else np.split(outputs, 2)
        return np.concatenate([mean, np.clip(log_std, -clip, clip)])

    def draw(self, inputs: np.ndarray, random: np.random.Generator, epsilon: float | None, explore: bool):
        """A value of the space; of a Box before it is stretched and clipped."""
        if self.is_box:
            draw = draw_beta if self.kind == "beta" else draw_normal
            drawn = draw(inputs, random if explore else None)
            if self.kind == "squashed_gaussian":
                drawn = np.clip(np.tanh(drawn), -SQUASHED_BOUND, SQUASHED_BOUND)
            return drawn.astype(self.space.dtype).reshape(self.space.shape)
        parts = np.split(inputs, np.cumsum(self.groups)[:-1])
        chosen = [draw_choice(part, random, epsilon) if explore else int(part.argmax()) for part in parts]
        if isinstance(self.space, spaces.Discrete):
            return self.space.start + chosen[0]
        dtype = self.space.dtype if isinstance(self.space, spaces.Box) else np.int32
        return (spaces.starts_of(self.space) + chosen).astype(dtype).reshape(self.space.shape)

    def given(self, drawn):
        """What is drawn, as the environment gets it."""
        if not self.is_box:
            return drawn
        action = np.clip(drawn.ravel() * self.scale + self.offset, self.low, self.high)
        return action.astype(self.space.dtype).reshape(self.space.shape)

    def drawn(self, action):
        """The other way round."""
        if not self.is_box:
            return action
        flat = np.asarray(action, self.space.dtype).ravel()
        scale = np.where(self.scale == 0, 1, self.scale)  # low == high: any number does
        return ((flat - self.offset) / scale).astype(self.space.dtype).reshape(self.space.shape)


# Without `random` the likeliest.

def draw_normal(inputs: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
    mean, log_std = np.split(inputs, 2)
    return mean if random is None else mean + np.exp(log_std) * random.standard_normal(mean.size, np.float32)


def draw_beta(inputs: np.ndarray, random: np.random.Generator | None) -> np.ndarray:
    alpha, beta = np.split(1 + np.logaddexp(0, inputs.astype(np.float64)), 2)
    both = alpha + beta - 2
    x = np.where(both > 0, (alpha - 1) / np.where(both > 0, both, 1), 0.5) if random is None else random.beta(alpha, beta)
    return 2 * np.clip(x.astype(np.float32), BETA_BOUND, 1 - BETA_BOUND) - 1


def draw_choice(logits: np.ndarray, random: np.random.Generator, epsilon: float | None) -> int:
    if epsilon is not None:  # they are Q-values
        possible = np.flatnonzero(logits > MASKED)
        return int(possible[random.integers(possible.size)] if random.random() < epsilon else logits.argmax())
    cumulative = np.exp((logits - logits.max()).astype(np.float64)).cumsum()
    drawn = np.searchsorted(cumulative, random.random() * cumulative[-1], side="right")
    return int(drawn) if drawn < logits.size else int(logits.argmax())  # rounding may leave none: then the likeliest


def mlp_of(config: dict, observation, action) -> dict:
    """The module.json of the MLP of a config, for what was saved before there were any (and action masks)."""
    encoder, size = [], size_of(observation)
    for hidden in config["fcnet_hiddens"]:
        encoder.append({"kind": "linear", "inputs": size, "outputs": hidden})
        size = hidden
        if config["fcnet_use_layernorm"]:
            encoder.append({"kind": "layernorm", "size": size})
        if config["fcnet_activation"] != "linear":
            encoder.append({"kind": "activate", "activation": config["fcnet_activation"], "size": size})
    kind = config.get("action_distribution", "auto")
    free = config["free_log_std"] and kind != "beta"
    distribution = {"kind": kind, "free_log_std": free}
    head = {"kind": "linear", "inputs": size, "outputs": Head(action, distribution).outputs}
    return {"obs_size": size_of(observation), "encoder": encoder, "action_head": head, "log_std_clip": config["log_std_clip_param"],
            "distribution": distribution}


def unnamed_networks(spec: dict) -> list[dict]:
    """The networks that act of a module.json that was written before networks had names."""
    return [{"name": "encoder", "inputs": ["obs"], "layers": spec["encoder"]}, {"name": "pi", "inputs": ["encoder"], "layers": [spec["action_head"]]}]


def allows(observation_space, action_space, observation, action) -> bool:
    choices = choices_made(action_space, action)
    offset, size = mask_in(observation_space)
    if size == 0:
        return True
    mask, starts = flat(observation_space, observation)[offset:offset + size], np.cumsum([0, *spaces.choices_of(action_space)[:-1]])
    return bool(mask[starts + np.asarray(choices, np.int64)].all())


def choices_made(action_space, action) -> list[int]:
    """Of each choice in an action, which option it is, from 0 on. Raises spaces.DoesNotFit for an action that is not of the space."""
    codec, choices = spaces.Codec(action_space, "action"), []
    for leaf, row in zip(codec.leaves, codec.converted(action)):
        own, whole = row.ravel(), not isinstance(leaf.space, spaces.Box) or spaces.is_whole(leaf.space)
        if whole:
            low = spaces.starts_of(leaf.space)
            high = low + spaces.choices_of(leaf.space) - 1
        else:
            low, high = (np.ravel(bound).astype(leaf.dtype) for bound in spaces.bounds_of(leaf.space))
        outside = ~((own >= low) & (own <= high))
        if outside.any():
            i = int(outside.argmax())
            raise spaces.DoesNotFit(f"{leaf.path}[{i}] = {own[i]} outside [{low[i]}, {high[i]}]")
        if whole:
            choices.extend((own - low).tolist())
    return choices


def mask_in(observation) -> tuple[int, int]:
    """Where in the features of an observation its action_mask begins, and its size; -1 and 0 where it has none."""
    offset = 0
    for name, part in observation.spaces.items() if isinstance(observation, spaces.Dict) else ():
        if name == "action_mask":
            return offset, size_of(part)
        offset += size_of(part)
    return -1, 0


def size_of(observation) -> int:
    """The number of features."""
    one_each = (spaces.Box, spaces.MultiBinary)
    return sum(math.prod(leaf.shape) if isinstance(leaf, one_each) else sum(spaces.choices_of(leaf)) for leaf in spaces.leaves_of(observation))


def layer_of(name: str, layer: dict, take, open_blocks: list[np.ndarray], streams: list[np.ndarray]):
    """What a layer of module.json does to a flat row; pictures are [height, width, channels], and flat, too."""
    number = lambda *keys: tuple(layer[key] for key in keys)

    def windows(x: np.ndarray, channels: int, border: float) -> np.ndarray:
        """[output rows, output columns, channels, kernel rows, kernel columns]"""
        height, width, stride, padding = number("height", "width", "stride", "padding")
        kernel = number("kernel", "kernel") if "kernel" in layer else number("kernel_height", "kernel_width")
        sides = (padding, padding)
        x = np.pad(x.reshape(height, width, channels), (sides, sides, (0, 0)), constant_values=border)
        return np.lib.stride_tricks.sliding_window_view(x, kernel, axis=(0, 1))[::stride, ::stride]

    def begin(x: np.ndarray) -> np.ndarray:
        open_blocks.append(x)
        return x

    def stream(x: np.ndarray) -> np.ndarray:
        streams.append(x)
        return streams[0]

    def concat(x: np.ndarray) -> np.ndarray:
        joined = np.concatenate([*streams[1:], x])
        streams.clear()
        return joined

    kind = layer["kind"]
    if kind == "linear":
        weight, bias = take(f"{name}.weight", *number("outputs", "inputs")), take(f"{name}.bias", layer["outputs"])
        return lambda x: weight @ x + bias
    if kind == "activate":
        return ACTIVATIONS[layer["activation"]]
    if kind == "layernorm":
        gain, shift = take(f"{name}.gain", layer["size"]), take(f"{name}.bias", layer["size"])
        return lambda x: (x - x.mean()) / np.sqrt(x.var() + np.float32(1e-5)) * gain + shift
    if kind == "batchnorm":
        gain, shift, mean, var = (take(f"{name}.{tensor}", layer["channels"]) for tensor in ("gain", "bias", "running_mean", "running_var"))
        return lambda x: ((x.reshape(-1, layer["channels"]) - mean) / np.sqrt(var + np.float32(1e-5)) * gain + shift).ravel()
    if kind == "random_shift":  # of training alone
        return lambda x: x
    if kind == "scale":
        return lambda x: x * np.float32(layer["factor"])
    if kind == "channels_last":
        return lambda x: x.reshape(number("channels", "height", "width", "depth")).transpose(1, 2, 0, 3).ravel()
    if kind == "conv2d":
        filters, bias = take(f"{name}.weight", *number("outputs", "kernel", "kernel", "inputs")), take(f"{name}.bias", layer["outputs"])
        matrix = filters.transpose(3, 1, 2, 0).reshape(-1, layer["outputs"])  # [inputs, kernel rows, kernel columns] x outputs

        def convolve(x: np.ndarray) -> np.ndarray:
            patches = windows(x, layer["inputs"], 0)
            return (patches.reshape(*patches.shape[:2], -1) @ matrix + bias).ravel()

        return convolve
    if kind == "max_pool2d":
        return lambda x: windows(x, layer["channels"], -np.inf).max(axis=(3, 4)).ravel()
    if kind == "avg_pool2d":
        return lambda x: windows(x, layer["channels"], 0).mean(axis=(3, 4)).ravel()
    if kind == "residual_begin":
        return begin
    if kind == "residual_end":
        return lambda x: open_blocks.pop() + x
    if kind == "select":
        return lambda x: x[layer["offset"]:layer["offset"] + layer["size"]]
    if kind == "stream":
        return stream
    if kind == "concat":
        return concat
    raise ValueError(f"{name} is a layer of kind {kind!r}, which this version does not know")


def features(space, value) -> list[np.ndarray]:
    """What the module sees of an observation: Box and MultiBinary as they are, integers one-hot. Raises spaces.DoesNotFit."""
    codec, parts = space if isinstance(space, spaces.Codec) else spaces.Codec(space, "obs"), []
    for leaf, own in zip(codec.leaves, codec.converted(value)):
        if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
            indices = own.ravel() - spaces.starts_of(leaf.space)
            for i, (index, n) in enumerate(zip(indices.tolist(), spaces.choices_of(leaf.space))):
                if not 0 <= index < n:
                    raise spaces.DoesNotFit(f"{leaf.path}[{i}] = {own.ravel()[i]} outside [{own.ravel()[i] - index}, {own.ravel()[i] - index + n})")
                parts.append(one_hot(index, n))
        else:
            parts.append(own.astype(np.float32))
    return parts


def flat(space, value) -> np.ndarray:
    """The features in one row."""
    return np.concatenate([part.ravel() for part in features(space, value)])


def one_hot(index: int, n: int) -> np.ndarray:
    return (np.arange(n) == index).astype(np.float32)


def space_of(said: dict):
    """A space of spaces.json."""
    kind = said["kind"]
    if kind == "Box":
        def bounds(values: list, endless: float):
            numbers = [endless if x is None else x for x in values]
            return numbers[0] if len(numbers) == 1 else np.reshape(numbers, said["shape"])

        return spaces.Box(bounds(said["low"], -math.inf), bounds(said["high"], math.inf), tuple(said["shape"]), said["dtype"])
    if kind == "Dict":
        return spaces.Dict(dict(zip(said["names"], map(space_of, said["spaces"]), strict=True)))
    if kind == "Tuple":
        return spaces.Tuple([space_of(part) for part in said["spaces"]])
    if kind == "MultiDiscrete":
        shaped = lambda values: np.reshape(values, said.get("shape", -1)).tolist()
        return spaces.MultiDiscrete(shaped(said["nvec"]), shaped(said["start"]) if "start" in said else None)
    if kind == "MultiBinary":
        return spaces.MultiBinary(tuple(said.get("shape", [said["n"]])))
    return getattr(spaces, kind)(**{name: value for name, value in said.items() if name != "kind"})


def read_safetensors(data: bytes, name: str) -> dict[str, np.ndarray]:
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8:8 + size])
        header.pop("__metadata__", None)
        tensors, body = {}, memoryview(data)[8 + size:]
        for key, tensor in header.items():
            begin, end = tensor["data_offsets"]
            tensors[key] = np.frombuffer(body[begin:end], ELEMENTS[tensor["dtype"]]).reshape(tensor["shape"])
        return tensors
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{name} is no safetensors file: {error}") from None
