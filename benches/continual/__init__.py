"""One experiment with EWC in thalweg and in Avalanche: `python -m benches.continual`."""
