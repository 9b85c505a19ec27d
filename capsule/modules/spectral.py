"""A convolution with a large kernel, which CPUs compute in the frequency domain with far fewer products."""

import math

import torch
from torch import nn

# The kernels are transformed once a batch: fewer samples do not pay for it. Direct convolutions in bf16 are
# the faster ones, so that it takes more.
MIN_BATCH = {"fp32": 8, "bf16": 16}


class SpectralConv2d(nn.Conv2d):
    """nn.Conv2d (stride 1, no padding): the same result, weights and names.

    On a CPU, from MIN_BATCH samples on, it multiplies spectra (Mathieu, Henaff, LeCun, ICLR 2014): for a 9×9
    kernel on a 28×28 map a fifteenth of the products. In float32, whatever autocast says, that takes two
    thirds of the time of the direct convolution in bf16. GPUs convolve directly.
    forward: (B, in, H, W) → (B, out, H−k+1, W−k+1).
    """

    def __init__(self, in_channels, out_channels, kernel_size):
        super().__init__(in_channels, out_channels, kernel_size)

    def forward(self, x):
        precision = "bf16" if torch.is_autocast_enabled("cpu") else "fp32"
        if x.device.type != "cpu" or len(x) < MIN_BATCH[precision]:
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return correlate(x.to(self.weight.dtype), self.weight) + self.bias[:, None, None]


def correlate(x, weight):
    """Cross-correlation of x (B, I, H, W) with weight (O, I, k, l) → (B, O, H−k+1, W−l+1).

    With real and imaginary parts side by side, Y = X·conj(K) at all frequencies is a batch of real products:
    (Re X, Im X)·(Re K; Im K) = Re Y and (Im X, −Re X)·(Re K; Im K) = Im Y.
    """
    height, width = x.shape[2:]
    spectra = torch.view_as_real(torch.fft.rfft2(x))                      # (B, I, H, F, 2), F = W//2 + 1
    real, imaginary = spectra.permute(4, 3, 2, 0, 1)                      # 2 × (F, H, B, I)
    rows = torch.cat([torch.cat([real, imaginary], 3), torch.cat([imaginary, -real], 3)], 2)
    products = _Products.apply(rows, weight, width)    # (F, H, 2B, 2I) → (F, H, 2B, O)
    products = products.unflatten(2, (2, -1)).permute(3, 4, 1, 0, 2)     # → (B, O, H, F, 2)
    y = torch.fft.irfft2(torch.view_as_complex(products.contiguous()), s=(height, width))
    # The last rows and columns have wrapped round.
    return y[:, :, :height - weight.shape[2] + 1, :width - weight.shape[3] + 1]


class _Products(torch.autograd.Function):
    """rows (F, H, 2B, 2I) times the kernels' spectra, frequency by frequency → (F, H, 2B, O).

    The spectra of all kernels would fill a quarter of a gigabyte: they are made for one column frequency at a
    time, in memory that stays in the cache, and made again for the gradient.
    """

    @staticmethod
    def forward(ctx, rows, weight, width):
        ctx.save_for_backward(rows, weight)
        ctx.width = width
        transform = _KernelTransform(weight, rows.shape[1], width)
        products = rows.new_empty(*rows.shape[:3], len(weight))
        for v in range(len(rows)):
            torch.bmm(rows[v], transform.spectra(v), out=products[v])
        return products

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        rows, weight = ctx.saved_tensors
        transform = _KernelTransform(weight, rows.shape[1], ctx.width)
        of_rows, of_weight = torch.empty_like(rows), torch.zeros_like(transform.weight)
        for v, along in enumerate(gradient.contiguous()):
            torch.bmm(along, transform.spectra(v).transpose(1, 2), out=of_rows[v])
            transform.add_gradient(of_weight, v, torch.bmm(rows[v].transpose(1, 2), along))
        return of_rows, transform.as_weight(of_weight), None


class _KernelTransform:
    """Half spectrum of kernels (O, I, k, l) padded to (H, W): along the rows, then down the columns."""

    def __init__(self, weight, height, width):
        self.shape, self.height = weight.shape, height
        rows, columns = weight.shape[2:]
        self.weight = weight.permute(3, 2, 1, 0).reshape(columns, -1)          # (O, I, k, l) → (l, k·I·O)
        across = _phases(width // 2 + 1, columns, width)
        self.across = torch.stack([across.cos(), -across.sin()], 1).to(weight.dtype)    # (F, 2, l)
        down = _phases(height, rows, height)
        real, imaginary = torch.cat([down.cos(), down.sin()], 1), torch.cat([-down.sin(), down.cos()], 1)
        self.down = torch.stack([real, imaginary], 1).flatten(0, 1).to(weight.dtype)    # (2H, 2k)

    def spectra(self, v):
        """Spectra at column frequency v: (H, 2·I, O), real parts of all inputs, then imaginary parts."""
        n_out, n_in, rows, _ = self.shape
        lines = (self.across[v] @ self.weight).view(2 * rows, n_in * n_out)    # (2, k·I·O) → (2k, I·O)
        return (self.down @ lines).view(self.height, 2 * n_in, n_out)          # (2H, I·O) → …

    def add_gradient(self, of_weight, v, of_spectra):
        """Add to `of_weight`, (l, k·I·O), its share of the spectra's gradient (H, 2·I, O) at v."""
        lines = self.down.T @ of_spectra.view(2 * self.height, -1)             # (2k, I·O)
        of_weight.addmm_(self.across[v].T, lines.view(2, -1))

    def as_weight(self, flat):
        """(l, k·I·O) → (O, I, k, l)."""
        n_out, n_in, rows, columns = self.shape
        return flat.view(columns, rows, n_in, n_out).permute(3, 2, 1, 0)


def _phases(n_frequencies, n_places, length):
    """Angles 2π·f·n/length, float64 (n_frequencies, n_places)."""
    return 2 * math.pi / length * torch.outer(torch.arange(n_frequencies), torch.arange(n_places)).double()
