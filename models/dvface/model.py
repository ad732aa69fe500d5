"""DVFace: the four parts together, one diffusion step (section 3.1)."""

from torch import Tensor, nn

from .config import Config
from .dit import Condition, Dit
from .prior import PriorExtractor
from .vae import LightVae


class DVFace(nn.Module):
    """Degraded frames [B, T, 3, H, W] in [-1, 1] to restored frames of the same shape."""

    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        self.vae = LightVae(config.vae)
        self.prior = PriorExtractor(config.prior, config.vae)
        self.dit = Dit(config)

    def denoise(self, latent: Tensor, spatial: Tensor, temporal: Tensor, condition: Condition | None = None) -> Tensor:
        """One step, z_hq = z_lq - t* v (eq. 2)."""
        return latent - self.config.diffusion.timestep * self.dit(latent, spatial, temporal, condition)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Restored frames and restored latent [B, C, t, h, w]."""
        restored = self.denoise(self.vae.encode(frames), *self.prior(frames))
        return self.vae.decoder(restored, frames if self.config.vae.fidelity else None), restored
