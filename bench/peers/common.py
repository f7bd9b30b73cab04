"What every peer is given: digits as arrays, a seed, a clock. What it gives back: one line of JSON"
import argparse, gzip, json, time
import numpy as np
from pathlib import Path

def _idx(folder, stem, offset):
    f = next(p for ext in ('','.gz') if (p := Path(folder)/f'{stem}{ext}').exists())
    return np.frombuffer((gzip.open if f.suffix=='.gz' else open)(f, 'rb').read(), np.uint8, offset=offset)

def digits(folder):
    "`x`, `y`, `x_test`, `y_test`: uint8 images `[n,28,28]` and labels"
    return [_idx(folder, f'{part}-{kind}', off).reshape(shape) for part in ('train','t10k')
        for kind,off,shape in (('images-idx3-ubyte', 16, (-1,28,28)), ('labels-idx1-ubyte', 8, -1))]

def args(**defaults):
    "Command line: the folder with MNIST, and the peer's own settings"
    p = argparse.ArgumentParser()
    p.add_argument('folder')
    for k,v in dict(seed=0, **defaults).items(): p.add_argument(f'--{k}', type=type(v), default=v)
    return p.parse_args()

class Clock:
    "Seconds from entering to leaving"
    def __enter__(self):
        self.start = time.perf_counter()
        return self
    def __exit__(self, *a): self.seconds = time.perf_counter()-self.start

def done(clock, accuracy, **kw): print(json.dumps(dict(seconds=clock.seconds, accuracy=float(accuracy), **kw)))
