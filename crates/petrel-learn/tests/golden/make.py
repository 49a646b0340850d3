#!/usr/bin/env python3
"""Golden vectors of one PPO minibatch from PyTorch's automatic differentiation and its Adam, in double precision.

    python make.py            # writes ppo.json beside this file; needs torch

Network 5-8-8-(3+2+1) with tanh, two categorical heads and a value; loss as in Stable-Baselines3 with the same minibatch three
times. Parameters are flat and input-major: weights[input * outputs + output], then biases, layer after layer.
"""

import json
import pathlib

import torch

torch.manual_seed(4)
torch.set_default_dtype(torch.float64)
SIZES, HEADS, ROWS = [5, 8, 8, 6], [3, 2], 20
CLIP, ENTROPY, VALUE, NORM, RATE = 0.2, 0.01, 0.5, 0.5, 0.01


def rounded(tensor):
    """Figures that single precision holds exactly, so that both sides start from the same numbers."""
    return tensor.to(torch.float32).to(torch.float64)


layers = [(rounded(torch.randn(i, o) * 0.7), rounded(torch.randn(o) * 0.2)) for i, o in zip(SIZES, SIZES[1:])]
params = torch.cat([torch.cat([weights.flatten(), bias]) for weights, bias in layers]).requires_grad_()
start = params.detach().tolist()
observations = rounded(torch.randn(ROWS, SIZES[0]))
choices = torch.stack([torch.randint(0, size, (ROWS,)) for size in HEADS], dim=1)
old_log_probabilities = rounded(-1.8 + 0.4 * torch.randn(ROWS))
advantages = rounded(torch.randn(ROWS) * 2 + 0.5)
returns = rounded(torch.randn(ROWS))
old_values = rounded(torch.randn(ROWS))


def network(flat):
    values, at = observations, 0
    for position, (inputs, outputs) in enumerate(zip(SIZES, SIZES[1:])):
        weights = flat[at:at + inputs * outputs].view(inputs, outputs)
        at += inputs * outputs
        values = values @ weights + flat[at:at + outputs]
        at += outputs
        if position < len(SIZES) - 2:
            values = torch.tanh(values)
    return values


def losses(flat):
    outputs = network(flat)
    log_probability, entropy, first = 0, 0, 0
    for head, size in enumerate(HEADS):
        distribution = torch.distributions.Categorical(logits=outputs[:, first:first + size])
        log_probability = log_probability + distribution.log_prob(choices[:, head])
        entropy = entropy + distribution.entropy()
        first += size
    scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    ratio = torch.exp(log_probability - old_log_probabilities)
    policy = -torch.min(scaled * ratio, scaled * torch.clamp(ratio, 1 - CLIP, 1 + CLIP)).mean()
    value = torch.nn.functional.mse_loss(outputs[:, -1], returns)
    divergence = ((ratio - 1) - (log_probability - old_log_probabilities)).mean()
    return policy + VALUE * value - ENTROPY * entropy.mean(), policy, value, entropy.mean(), divergence


optimiser = torch.optim.Adam([params], lr=RATE, eps=1e-5)
steps = []
for _ in range(3):
    optimiser.zero_grad()
    total, policy, value, entropy, divergence = losses(params)
    total.backward()
    gradient = params.grad.tolist()
    norm = torch.nn.utils.clip_grad_norm_([params], NORM)
    optimiser.step()
    steps.append({"policy": policy.item(), "value": value.item(), "entropy": entropy.item(), "divergence": divergence.item(),
                  "norm": norm.item(), "gradient": gradient, "params_after": params.detach().tolist()})


def shortened(value):
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return {key: shortened(item) for key, item in value.items()} if isinstance(value, dict) else value


golden = {
    "sizes": SIZES, "heads": HEADS, "clip": CLIP, "entropy": ENTROPY, "value": VALUE, "max_gradient_norm": NORM,
    "learning_rate": RATE, "params": start, "observations": observations.flatten().tolist(),
    "choices": choices.flatten().tolist(), "log_probabilities": old_log_probabilities.tolist(),
    "old_values": old_values.tolist(), "advantages": advantages.tolist(), "returns": returns.tolist(), "steps": steps,
}
path = pathlib.Path(__file__).with_name("ppo.json")
path.write_text(json.dumps(shortened(golden)) + "\n", encoding="utf-8")
