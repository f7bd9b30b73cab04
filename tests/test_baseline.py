"Pixel similarity over random images, against PyTorch's own distances"
import pytest, torch, torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from mnist_fast.baseline import PixelSimilarity, is_3, mnist_distance

eps = 784*2**-23 # two means of 784 numbers of at most 1 differ by no more than this
shapes = st.sampled_from([(784,),(28,28),(1,28,28)])
few = settings(max_examples=25, deadline=None)

def images(n, seed, shape=(784,)): return torch.rand(n, *shape, generator=torch.Generator().manual_seed(seed))

def digits(n, classes, seed, shape=(784,)):
    "Random images and labels; each class occurs"
    y = torch.arange(n)%classes
    return images(n, seed, shape),y[torch.randperm(n, generator=torch.Generator().manual_seed(seed))]

def close(a, b, tol=eps): torch.testing.assert_close(a, b, rtol=0, atol=tol)

@few
@given(st.integers(1, 9), st.sampled_from([(784,),(28,28)]), st.integers(0, 99))
def test_mnist_distance(n, shape, seed):
    a,b = images(n, seed, shape),images(n, seed+100, shape)
    close(mnist_distance(a, b), torch.stack([F.l1_loss(x, y) for x,y in zip(a, b)]))
    close(mnist_distance(a, b[0]), torch.stack([F.l1_loss(x, b[0]) for x in a]))
    assert torch.equal(mnist_distance(a, b), mnist_distance(b, a)) and not mnist_distance(a, a).any()

@few
@given(st.integers(1, 20), st.sampled_from([(784,),(28,28)]), st.integers(0, 99))
def test_is_3(n, shape, seed):
    x,m3,m7 = images(n, seed, shape),*images(2, seed+100, shape)
    want = torch.tensor([(F.l1_loss(o, m3)<F.l1_loss(o, m7)).item() for o in x])
    clear = (mnist_distance(x, m3)-mnist_distance(x, m7)).abs()>2*eps
    assert torch.equal(is_3(x, m3, m7)[clear], want[clear])
    assert is_3(m3[None], m3, m7).all() and not is_3(m7[None], m3, m7).any()

@few
@given(st.integers(2, 10), st.integers(0, 20), shapes, st.integers(0, 99))
def test_fit(classes, more, shape, seed):
    "The ideals are the means of the classes, whatever form the images have"
    x,y = digits(classes+more, classes, seed, shape)
    ps = PixelSimilarity().fit(x, y[:,None] if more%2 else y)
    assert ps.classes.tolist()==list(range(classes))
    n = F.one_hot(y).float()
    close(ps.ideals, n.T@x.flatten(1)/n.sum(0)[:,None], (classes+more)*2**-23)

@few
@given(st.sampled_from(['l1','l2']), st.integers(2, 10), st.integers(1, 40), shapes, st.integers(0, 99))
def test_distances(dist, classes, n, shape, seed):
    "L1 and L2 of each image and each ideal, and the nearest one is predicted"
    x,y = digits(20, classes, seed, shape)
    ps,xv = PixelSimilarity(dist).fit(x, y),images(n, seed+100, shape)
    f = F.l1_loss if dist=='l1' else F.mse_loss
    want = torch.stack([torch.stack([f(o.flatten(), m) for m in ps.ideals]) for o in xv])
    got = ps.distances(xv)
    close(got if dist=='l1' else got**2, want, eps if dist=='l1' else 4*eps) # the square is a²+b²-2ab: four products of at most 1
    best = want.topk(2, largest=False)
    clear = best.values[:,1]-best.values[:,0]>8*eps
    preds,yv = ps.predict(xv),torch.arange(n)%classes
    assert torch.equal(preds[clear], ps.classes[best.indices[:,0]][clear])
    assert ps.accuracy(xv, yv[:,None])==pytest.approx((preds==yv).sum().item()/n, abs=2**-23)

@few
@given(st.integers(2, 20), st.integers(0, 99))
def test_two_classes(n, seed):
    "With a three and a seven the predictions are those of `is_3`"
    x,y = digits(n, 2, seed)
    ps,xv = PixelSimilarity().fit(x, y),images(50, seed+100)
    m7,m3 = ps.ideals
    clear = (mnist_distance(xv, m3)-mnist_distance(xv, m7)).abs()>2*eps
    assert torch.equal((ps.predict(xv)==1)[clear], is_3(xv, m3, m7)[clear])

@few
@given(st.sampled_from(['l1','l2']), st.integers(0, 99))
def test_bytes(dist, seed):
    "uint8 images are the floats divided by 255, and one image counts as a batch of one"
    x = torch.randint(0, 256, (12,28,28), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    y = torch.arange(12)%3
    a,b = PixelSimilarity(dist).fit(x, y),PixelSimilarity(dist).fit(x.float().flatten(1)/255, y)
    assert torch.equal(a.ideals, b.ideals) and torch.equal(a.distances(x), b.distances(x.float()/255))
    assert a.distances(x[0]).shape==a.distances(x[0].flatten())[:1].shape==(1,3)

def test_labels_may_have_gaps():
    x = torch.stack([torch.zeros(784),torch.ones(784)])
    ps = PixelSimilarity().fit(x, torch.tensor([7,3]))
    assert ps.classes.tolist()==[3,7] and ps.predict(x).tolist()==[7,3] and ps.accuracy(x, torch.tensor([7,7]))==.5

def test_bad_input():
    x,y = digits(6, 2, 0)
    with pytest.raises(ValueError, match="'l3'"): PixelSimilarity('l3')
    with pytest.raises(ValueError, match='fit'): PixelSimilarity().predict(x)
    with pytest.raises(ValueError, match='6 images.*5 labels'): PixelSimilarity().fit(x, y[:5])
    ps = PixelSimilarity().fit(x, y)
    for bad in (x*255, x-1, x/0):
        with pytest.raises(ValueError, match='Pixels go from'): ps.predict(bad)
        with pytest.raises(ValueError, match='Pixels go from'): PixelSimilarity().fit(bad, y)
