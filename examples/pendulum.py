"""Swing up a pendulum by reinforcement learning: continuous actions, learned from a replay memory.

Soft actor-critic (Haarnoja et al. 2018, arXiv:1812.05905) on the pendulum of Gymnasium's
Pendulum-v1: two critics whose smaller value counts, copies of them that follow slowly, an actor
trained through the critics, and a temperature that keeps its actions random enough. The gradient
through the random actions is derived on paper, and checked. Needs only thalweg and NumPy.
"""

import copy

import numpy as np

import thalweg as tw
from thalweg import nn, optim

# Episodes end only by time, so the value of every state includes what would follow.
STEPS, FIRST, EPISODE, BATCH = 8000, 500, 200, 64
GAMMA, TAU, ENTROPY = 0.99, 0.005, -1.0  # ENTROPY is the target for the actor's

rng = np.random.default_rng(0)


def see(angle, speed):
    return np.column_stack([np.cos(angle), np.sin(angle), speed])


def push(angle, speed, action):
    """Advance by 0.05 s; return the new state and the reward, which is 0 at rest at the top."""
    off = (angle + np.pi) % (2 * np.pi) - np.pi
    reward = -(off**2) - 0.1 * speed**2 - 0.001 * (2 * action) ** 2
    speed = np.clip(speed + 0.05 * (15 * np.sin(angle) + 3 * (2 * action)), -8, 8)
    return angle + 0.05 * speed, speed, reward


def choose(output, noise):
    """Return actions (tanh of a Gaussian), their log-densities, and the backward pass.

    `back` converts derivatives with respect to actions and log-densities to derivatives with
    respect to `output`, which holds means and logarithms of standard deviations.
    """
    mean, raw = np.split(output, 2, axis=1)
    log_std = np.clip(raw, -5, 2)
    u = mean + np.exp(log_std) * noise
    action = np.tanh(u)
    log_slope = 2 * (np.log(2) - u - np.logaddexp(0, -2 * u))  # log(1 - tanh²), never -inf
    log_density = -(noise**2) / 2 - log_std - np.log(2 * np.pi) / 2 - log_slope

    def back(by_action, by_log):
        by_u = by_action * (1 - action**2) + by_log * 2 * action
        by_log_std = (by_u * np.exp(log_std) * noise - by_log) * ((raw > -5) & (raw < 2))
        return np.hstack([by_u, by_log_std])

    return action, log_density, back


def check_the_way_back():
    output, (noise, a, b) = rng.normal(size=(10, 2)), rng.normal(size=(3, 10, 1))

    def value(output):
        action, log_density, _ = choose(output, noise)
        return np.sum(a * action + b * log_density)

    return tw.check_gradient(value, lambda output: choose(output, noise)[2](a, b), output)


def network(inputs, outputs, seed):
    layers = nn.Linear(inputs, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, outputs)
    return nn.Sequential(*layers, seed=seed)


actor, adam = network(3, 2, seed=0), optim.Adam(lr=1e-3)
critics = [network(4, 1, seed=1), network(4, 1, seed=2)]
targets = copy.deepcopy(critics)
trainers = [tw.Trainer(q, loss=nn.MSELoss(), optimizer=optim.Adam(lr=1e-3)) for q in critics]
log_temperature = 0.0


def train_critics(seen, action, reward, later):
    """Step towards the reward and what follows: the targets' lower value, and entropy."""
    next_action, log_density, _ = choose(actor(later), rng.normal(size=(BATCH, 1)))
    pairs = np.hstack([later, next_action])
    value = np.minimum(*(q(pairs) for q in targets)) - np.exp(log_temperature) * log_density
    for trainer, critic, target in zip(trainers, critics, targets, strict=True):
        trainer.step(np.hstack([seen, action]), reward + GAMMA * value)
        target.follow(critic, TAU)


def train_actor(seen):
    """Increase the lower value and the entropy, through the critics; adjust the temperature."""
    global log_temperature
    temperature = np.exp(log_temperature)
    action, log_density, back = choose(actor.forward(seen), rng.normal(size=(BATCH, 1)))
    pairs = np.hstack([seen, action])
    first, second = (q.forward(pairs) for q in critics)
    lower = first < second, first >= second
    by_pairs = sum(
        q.backward(mask / -BATCH, parameters=False) for q, mask in zip(critics, lower, strict=True)
    )
    actor.zero_grad()
    actor.backward(back(by_pairs[:, 3:], temperature / BATCH), inputs=False)
    adam.step(actor)
    log_temperature += 1e-3 * (ENTROPY + log_density.mean())


print(check_the_way_back())
memory = np.empty((STEPS, 3 + 1 + 1 + 3))  # seen, action, reward, seen next
returns = []
for step in range(STEPS):
    if step % EPISODE == 0:
        angle, speed = rng.uniform(-np.pi, np.pi, 1), rng.uniform(-1, 1, 1)
        returns.append(0.0)
    seen = see(angle, speed)
    action = rng.uniform(-1, 1, (1, 1))
    if step >= FIRST:
        action = choose(actor(seen), rng.normal(size=(1, 1)))[0]
    angle, speed, reward = push(angle, speed, action[:, 0])
    memory[step] = np.hstack([seen, action, 0.1 * reward[:, None], see(angle, speed)])
    returns[-1] += reward[0]
    if step >= FIRST:
        rows = memory[rng.integers(0, step + 1, BATCH)]
        seen, action, reward, later = np.split(rows, [3, 4, 5], axis=1)
        train_critics(seen, action, reward, later)
        train_actor(seen)
    if (step + 1) % (8 * EPISODE) == 0:
        print(f"step {step + 1}: the last 8 episodes returned {np.mean(returns[-8:]):.0f}")

angle, speed = np.full(10, np.pi), np.linspace(-1, 1, 10)  # hanging down
for _ in range(EPISODE):
    angle, speed, _ = push(angle, speed, np.tanh(actor(see(angle, speed))[:, 0]))
print(f"{np.sum(np.cos(angle) > 0.99)} of 10 pendulums that hung down now stand upright")
