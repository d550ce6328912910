"""Optimizers beside their peers: the same steps for the same gradients, to the last digits.

`tables` says which settings of which optimizer are compared with what; `test_gradients` gives both
the same gradients, `test_networks` the same network to train. Every run takes 200 steps, changes
the learning rate on the way, and goes on from a saved state. What PyTorch and Optax compute in
float64 is the reference, for float32 too; without them those tests are skipped. Keras is compared
with the formulas of its manual, written out in `keras`.
"""
