"""A network and its Adam optimiser on a device, trained batch by batch.

On a GPU the training step is recorded once, as a CUDA graph (at full size compiled before), and replayed for
every full batch of every fold: its some 500 small kernels take the CPU longer to launch than the GPU to run.
So a new fold's weights are copied into the same network.
"""

import contextlib
import warnings

import torch

from capsule.device import autocast_for, can_compile, tune_convolutions

COMPILER = {"max_autotune_pointwise": True}    # untuned, its kernels for the batch norms' sums are slow
WARM_UP = 3    # steps before recording, in which kernels are compiled and chosen and memory is allocated


def is_compiled(training, device):
    """Whether the step is compiled before it is recorded, a matter of a minute: at full size on a GPU."""
    network = training.network
    wanted = device.type == "cuda" and not (network.quick or network.is_small or training.deterministic)
    return wanted and can_compile()


def forward(model, inputs, labels, network, precision):
    """(outputs (B, classes), loss ()), both float32. inputs: a float (B, C, H, W) in [0, 1] per stream."""
    with autocast_for(labels.device, precision):
        outputs = model(*network.prepared(inputs))
    outputs = outputs.float()
    return outputs, network.loss(outputs, labels)


class Learner:
    """A network that learns batch by batch.

    model: from `Network.make`; it moves to `device`. training: capsule.fold.Training, precision "fp32" or
    "bf16".
    """

    def __init__(self, model, training, device):
        self.training, self.on_gpu = training, device.type == "cuda"
        self.model = _laid_out(model.to(device))
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        # A graph reads the learning rate from the GPU's memory.
        rate = torch.tensor(training.learning_rate, device=device) if self.on_gpu else training.learning_rate
        self.optimiser = torch.optim.Adam(trained, lr=rate, fused=True, capturable=self.on_gpu)
        self.rate, self.graph = training.learning_rate, None
        self.how = "eager"    # how it takes a full batch's step: eager, recorded, or compiled and recorded

    def set_rate(self, rate):
        """Set Adam's learning rate, on a GPU in place, where the recorded step reads it."""
        self.rate, group = rate, self.optimiser.param_groups[0]
        group["lr"] = group["lr"].fill_(rate) if self.on_gpu else rate

    def restart(self, model):
        """Start a new fold: the weights of `model`, a network of the same kind; Adam's state as at first."""
        fresh = model.state_dict()
        for name, own in self.model.state_dict().items():
            own.copy_(fresh[name])
        for state in self.optimiser.state.values():
            for value in state.values():
                value.zero_()
        self.set_rate(self.training.learning_rate)

    def _step(self, inputs, labels, forward=forward):
        outputs, loss = forward(self.model, inputs, labels, self.training.network, self.training.precision)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return outputs.detach(), loss.detach()

    def learn(self, inputs, labels):
        """Train on one batch: a float (B, C, H, W) per stream, and class numbers (B,).

        Returns: (outputs (B, classes), loss ()), detached, still on the device, as copying them to the CPU
        would wait for the GPU. The next batch may overwrite them.
        """
        full = len(labels) == self.training.batch_size
        tune_convolutions(full)
        if not (full and self.on_gpu):
            return self._step(inputs, labels)
        if self.graph is None:
            self._record(inputs, labels)
        for own, new in zip((*self.inputs, self.labels), (*inputs, labels), strict=True):
            own.copy_(new)
        self.graph.replay()
        return self.outputs, self.loss

    def _record(self, inputs, labels):
        """Record the step for batches of this shape; weights, optimiser and random state stay as they are."""
        self.inputs, self.labels = [stream.clone() for stream in inputs], labels.clone()
        kept, draws = [tensor.clone() for tensor in self._state()], torch.cuda.get_rng_state(labels.device)
        way, self.how = forward, "recorded"
        if is_compiled(self.training, labels.device):
            way, self.how = torch.compile(forward, options=COMPILER, dynamic=False), "compiled"
        self.graph, self.outputs, self.loss = self._graph_of(way)
        for tensor, value in zip(self._state(), kept, strict=False):
            tensor.copy_(value)
        for tensor in self._state()[len(kept):]:        # the optimiser's, made by the first step
            tensor.zero_()
        torch.cuda.set_rng_state(draws, labels.device)

    def _graph_of(self, way):
        """(CUDA graph of a step with this forward function, its outputs, its loss)."""
        with warnings.catch_warnings(), _beside(self.labels.device):
            warnings.simplefilter("ignore")    # the compiler's remarks on its own choices
            for _ in range(WARM_UP):
                self._step(self.inputs, self.labels, way)
        self.optimiser.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs, loss = self._step(self.inputs, self.labels, way)
        return graph, outputs, loss

    def _state(self):
        optimiser = [value for state in self.optimiser.state.values() for value in state.values()]
        return [*self.model.state_dict().values(), *optimiser]


@contextlib.contextmanager
def _beside(device):
    """Context manager: work runs on a side stream, where CUDA graphs want a step warmed up."""
    stream, current = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    stream.wait_stream(current)
    with torch.cuda.stream(stream):
        yield
    current.wait_stream(stream)


def _laid_out(model):
    """`model`, its convolutions channels-last on a GPU; a CPU would rearrange them in every call."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d) and layer.weight.is_cuda:
            layer.to(memory_format=torch.channels_last)
    return model
