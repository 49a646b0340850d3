"""Two tests learn for a moment: one thread is faster than several for networks this small."""

import torch

torch.set_num_threads(1)
