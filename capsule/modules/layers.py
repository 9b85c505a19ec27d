"""Capsule layers: squash, primary capsules, routed capsules (SPEC section 6; Sabour et al., NeurIPS 2017)."""

import torch
from torch import nn
from torch.nn.grad import conv2d_input, conv2d_weight


def squash(vectors):
    """Shrink vectors to a length in [0, 1), direction kept: |s|²/(1+|s|²) · s/(|s|+1e-8) along the last axis.

    `vectors`: float tensor (..., D). Returns the same shape.
    """
    length = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    squared = length * length
    return vectors * (squared / ((1 + squared) * (length + 1e-8)))


class PrimaryCapsule(nn.Module):
    """A convolution whose channels are read as capsules of `dim_caps` numbers.

    forward: (B, in_channels, H, W) → (B, H'·W'·out_channels/dim_caps, dim_caps), squashed, in the weights'
    precision whatever autocast says.
    """

    def __init__(self, in_channels, out_channels, dim_caps, kernel_size, stride=1, padding=0):
        super().__init__()
        self.dim_caps = dim_caps
        self.conv2d = nn.Conv2d(in_channels, out_channels, kernel_size, stride=stride, padding=padding)

    def forward(self, x):
        features = self._convolved(x).permute(0, 2, 3, 1)                # (B, C, H', W') → (B, H', W', C)
        capsules = features.reshape(len(x), -1, self.dim_caps)           # → (B, H'·W'·C/dim, dim)
        with torch.autocast(x.device.type, enabled=False):               # lengths need full precision
            return squash(capsules.to(self.conv2d.weight.dtype))

    def _convolved(self, x):
        conv = self.conv2d
        if not (x.is_cuda and conv.padding == (0, 0)):
            return conv(x)
        found = PatchProduct.apply(x, conv.weight.to(x.dtype), *conv.stride)
        return found + conv.bias.to(x.dtype)[:, None, None]


class PatchProduct(torch.autograd.Function):
    """A convolution without padding as one matrix product, for a GPU.

    Few places and a long sum each (36 places, 20736 products): cuDNN gives a place to a processor, most of
    which idle; a matrix product is split along its sums. The gradients are cuDNN's.
    """

    @staticmethod
    def forward(ctx, x, weight, *stride):
        """x (B, C, H, W), weight (out, C, k, k) → (B, out, H', W')."""
        ctx.save_for_backward(x, weight)
        ctx.stride, kernel = stride, weight.shape[2:]
        patches = x.permute(0, 2, 3, 1)
        for axis in (0, 1):                                              # → (B, H', W', C, k, k)
            patches = patches.unfold(1 + axis, kernel[axis], stride[axis])
        patches = patches.permute(0, 1, 2, 4, 5, 3).flatten(3)           # → (B, H', W', k·k·C)
        return (patches @ weight.permute(0, 2, 3, 1).flatten(1).t()).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        return (conv2d_input(x.shape, weight, gradient, ctx.stride),
                conv2d_weight(x, weight.shape, gradient, ctx.stride), None, None)


class MECapsule(nn.Module):
    """Capsules routed by agreement; the softmax is over the output capsules.

    forward: (B, in_num_caps, in_dim_caps) → (B, out_num_caps, out_dim_caps), lengths in [0, 1), in the
    weights' precision whatever autocast says.
    Gradients flow through the predictions û only in the last round; the coupling coefficients are constants.
    """

    def __init__(self, in_num_caps, in_dim_caps, out_num_caps, out_dim_caps, routings=3):
        super().__init__()
        if routings < 1:
            raise ValueError(f"routings {routings}: must be at least 1")
        self.routings = routings
        self.weight = nn.Parameter(0.01 * torch.randn(out_num_caps, in_num_caps, out_dim_caps, in_dim_caps))

    def forward(self, x):
        with torch.autocast(x.device.type, enabled=False):
            predictions = self._predict(x.to(self.weight.dtype))
            return self._route(predictions).unflatten(0, (len(x), -1))   # (B·out, D) → (B, out, D)

    def _predict(self, x):
        """û = W·u of each pair of input and output capsule: (B, in, in_dim) → (B·out, in, out_dim)."""
        n_out, n_in, out_dim, in_dim = self.weight.shape
        # One matrix per input capsule: (out, in, D, d) → (in, d, out, D) → (in, d, out·D)
        weight = self.weight.permute(1, 3, 0, 2).reshape(n_in, in_dim, n_out * out_dim)
        predictions = torch.bmm(x.transpose(0, 1), weight)               # (in, B, out·D)
        return predictions.view(n_in, len(x) * n_out, out_dim).transpose(0, 1)

    def _route(self, predictions):
        """Routing by agreement: û (B·out, in, D) → v (B·out, D)."""
        n_out, constant = len(self.weight), predictions.detach()
        logits = constant.new_zeros(constant.shape[:2])                  # b, (B·out, in)
        for last in [False] * (self.routings - 1) + [True]:
            # Softmax over the classes: (B·out, in) → (B, out, in) → (B·out, 1, in)
            coupling = logits.unflatten(0, (-1, n_out)).softmax(1).flatten(0, 1).unsqueeze(1)
            outputs = squash(torch.bmm(coupling, predictions if last else constant))      # (B·out, 1, D)
            if not last:
                logits = logits + torch.bmm(constant, outputs.transpose(1, 2)).squeeze(2)
        return outputs.squeeze(1)
