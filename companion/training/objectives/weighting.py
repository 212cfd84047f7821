"""Weights of the timesteps in L_base: min(SNR, gamma) / SNR (Hang et al. 2023, https://arxiv.org/abs/2303.09556)."""

import torch
from torch import Tensor

SNR_WEIGHTS = {  # min-SNR weight of the network's own target: its error is that of x0_hat over snr, snr + 1 or 1
    "epsilon": lambda snr, clipped: clipped / snr,
    "v_prediction": lambda snr, clipped: clipped / (snr + 1),
    "sample": lambda snr, clipped: clipped,
}


def min_snr_weight(alpha_bar: Tensor, gamma: float, prediction_type: str) -> Tensor:
    """The weight of each sample's squared error, (B,), by its alpha_bar_t; gamma 0 weights all alike."""
    if not gamma:
        return torch.ones_like(alpha_bar)
    snr = alpha_bar / (1 - alpha_bar)
    return SNR_WEIGHTS[prediction_type](snr, snr.clamp(max=gamma))
