"What every peer is given: digits as arrays, a seed, a clock. What it gives back: one line of JSON"
import argparse, json, time
import numpy as np

def digits(file):
    "`x`, `y`, `x_test`, `y_test`: uint8 images `[n,28,28]` and labels"
    return np.load(file).values()

def args(**defaults):
    "Command line: the file with the digits, and the peer's own settings"
    p = argparse.ArgumentParser()
    p.add_argument('file')
    for k,v in dict(seed=0, **defaults).items(): p.add_argument(f'--{k}', type=type(v), default=v)
    return p.parse_args()

class Clock:
    "Seconds from entering to leaving"
    def __enter__(self):
        self.start = time.perf_counter()
        return self
    def __exit__(self, *a): self.seconds = time.perf_counter()-self.start

def done(clock, accuracy, **kw): print(json.dumps(dict(seconds=clock.seconds, accuracy=float(accuracy), **kw)))
