"""The smallest example: exclusive or. Needs only thalweg and NumPy."""

import numpy as np

import thalweg as tw
from thalweg import nn, optim

x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
y = np.array([0, 1, 1, 0])

model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
trainer = tw.Trainer(model, loss=nn.CrossEntropyLoss(), optimizer=optim.Adam(lr=0.05))
history = trainer.fit(x, y, epochs=200, batch_size=4)

print(f"loss {history['loss'][0]:.3f} -> {history['loss'][-1]:.3f}")
for row, answer in zip(x, model(x).argmax(axis=1), strict=True):
    print(f"{row[0]} xor {row[1]} = {answer}")
