"JAX and optax: three stride-2 convolutions, the whole step compiled; compiling is not counted"
import jax, jax.numpy as jnp, numpy as np, optax
from common import Clock, args, digits, done

def conv(x, w): return jax.lax.conv_general_dilated(x, w, (2,2), 'SAME', dimension_numbers=('NHWC','HWIO','NHWC'))

def init(key, shapes):
    keys = jax.random.split(key, len(shapes))
    return [jax.random.normal(k, s)*(2/np.prod(s[:-1]))**.5 for k,s in zip(keys, shapes)]

def model(ws, x):
    x = x.astype(jnp.float32)[...,None]/255
    for w in ws[:-1]: x = jax.nn.relu(conv(x, w))
    return x.reshape(len(x), -1)@ws[-1]

def loss(ws, x, y): return optax.softmax_cross_entropy_with_integer_labels(model(ws, x), y).mean()

a = args(epochs=3, bs=256)
x,y,xt,yt = (jnp.asarray(o) for o in digits(a.file))
n,key = len(x)//a.bs,jax.random.key(a.seed)
ws = init(key, [(5,5,1,16),(3,3,16,32),(3,3,32,64),(1024,10)])
opt = optax.adam(optax.cosine_onecycle_schedule(n*a.epochs, 3e-3))

@jax.jit
def step(ws, state, x, y, idx):
    grads = jax.grad(loss)(ws, x[idx], y[idx])
    updates,state = opt.update(grads, state)
    return optax.apply_updates(ws, updates),state

state,rng = opt.init(ws),np.random.default_rng(a.seed)
jax.block_until_ready(step(ws, state, x, y, jnp.arange(a.bs)))
with Clock() as c:
    for _ in range(a.epochs):
        for idx in rng.permutation(len(x))[:n*a.bs].reshape(n, a.bs): ws,state = step(ws, state, x, y, idx)
    jax.block_until_ready(ws)
right = sum((jax.jit(model)(ws, xt[i:i+1000]).argmax(1)==yt[i:i+1000]).sum() for i in range(0, len(xt), 1000))
done(c, right/len(yt), epochs=a.epochs)
