"""Balance a pole by reinforcement learning: a custom training loop with two networks.

Proximal policy optimization (Schulman et al. 2017, arXiv:1707.06347) on the cart and pole of Barto,
Sutton & Anderson 1983, 32 of them at a time. The gradient of the actor is derived on paper, as its
loss does not compare outputs with targets. The critic's loss does, so a Trainer takes its steps.
Needs only thalweg and NumPy.
"""

import numpy as np

import thalweg as tw
from thalweg import nn, optim

CARTS, STEPS, UPDATES, EPOCHS, BATCH = 32, 128, 40, 4, 512
GAMMA, LAMBDA, CLIP, ENTROPY = 0.99, 0.95, 0.2, 0.01
LONGEST = 500  # the most steps in an episode

rng = np.random.default_rng(0)


def start(count):
    return rng.uniform(-0.05, 0.05, (count, 4))


def push(state, right):
    """Advance all carts by 0.02 s; the state is position, speed, angle and angular speed."""
    _, speed, angle, turn = state.T
    force, sin, cos = np.where(right, 10.0, -10.0), np.sin(angle), np.cos(angle)
    pull = (force + 0.05 * turn**2 * sin) / 1.1
    spin = (9.8 * sin - cos * pull) / (0.5 * (4 / 3 - 0.1 * cos**2 / 1.1))
    slide = pull - 0.05 * spin * cos / 1.1
    return state + 0.02 * np.column_stack([speed, slide, turn, spin])


def log_softmax(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def network(outputs, seed):
    layers = nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)
    return nn.Sequential(*layers, seed=seed)


actor, critic = network(2, seed=1), network(1, seed=2)
adam = optim.Adam(lr=3e-3)
critic_trainer = tw.Trainer(critic, loss=nn.MSELoss(), optimizer=optim.Adam(lr=3e-3))


def play(state, age):
    """Let all carts run; return what was seen and done, and the lengths of ended episodes."""
    seen, done, logs, ended, lengths = [], [], [], [], []
    for _ in range(STEPS):
        logp = log_softmax(actor(state))
        action = (rng.random(CARTS) < np.exp(logp[:, 1])).astype(int)
        seen.append(state)
        done.append(action)
        logs.append(logp[np.arange(CARTS), action])
        state, age = push(state, action == 1), age + 1
        fell = (np.abs(state[:, 0]) > 2.4) | (np.abs(state[:, 2]) > 0.2095)
        over = fell | (age >= LONGEST)
        ended.append(over)
        lengths += age[over].tolist()
        state, age = np.where(over[:, None], start(CARTS), state), np.where(over, 0, age)
    return state, age, np.array(seen), np.array(done), np.array(logs), np.array(ended), lengths


def advantages(seen, last, ended):
    """Estimate how much better each action was than usual (generalized advantage estimation)."""
    values = critic(np.concatenate([seen, last[None]]).reshape(-1, 4)).reshape(STEPS + 1, CARTS)
    found, ahead = np.zeros((STEPS, CARTS)), np.zeros(CARTS)
    for t in reversed(range(STEPS)):
        error = 1.0 + GAMMA * values[t + 1] * ~ended[t] - values[t]  # each step is worth 1
        found[t] = ahead = error + GAMMA * LAMBDA * ahead * ~ended[t]
    return found, found + values[:-1]


def train_actor(states, actions, old, advantage):
    """Step along the gradient of the clipped objective, with a bonus for entropy."""
    logp = log_softmax(actor.forward(states))
    p, rows = np.exp(logp), np.arange(len(states))
    ratio = np.exp(logp[rows, actions] - old)
    free = np.where(advantage > 0, ratio < 1 + CLIP, ratio > 1 - CLIP)
    by_log = -advantage * ratio * free  # derivative with respect to the log-probability
    entropy = -(p * logp).sum(axis=1, keepdims=True)
    gradient = by_log[:, None] * (np.eye(2)[actions] - p) + ENTROPY * p * (logp + entropy)
    actor.zero_grad()
    actor.backward(gradient / len(states))
    nn.utils.clip_grad_norm_(actor, 0.5)
    adam.step(actor)


state, age = start(CARTS), np.zeros(CARTS, int)
for update in range(1, UPDATES + 1):
    state, age, seen, done, logs, ended, lengths = play(state, age)
    advantage, target = advantages(seen, state, ended)
    seen, done, logs = seen.reshape(-1, 4), done.ravel(), logs.ravel()
    advantage, target = advantage.ravel(), target.ravel()
    for _ in range(EPOCHS):
        for rows in np.split(rng.permutation(len(seen)), len(seen) // BATCH):
            normal = (advantage[rows] - advantage[rows].mean()) / (advantage[rows].std() + 1e-8)
            train_actor(seen[rows], done[rows], logs[rows], normal)
            critic_trainer.step(seen[rows], target[rows])
    if update % 10 == 0:
        print(f"update {update}: episodes last {np.mean(lengths):.0f} steps")

# What it has learned, without randomness: always the likelier action, from 100 new starts.
state, standing = start(100), np.ones(100, bool)
for _ in range(LONGEST):
    state = push(state, actor(state).argmax(axis=1) == 1)
    standing &= (np.abs(state[:, 0]) <= 2.4) & (np.abs(state[:, 2]) <= 0.2095)
print(f"{standing.sum()} of 100 poles stand after {LONGEST} steps")
