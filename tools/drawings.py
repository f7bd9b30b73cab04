"""Pictures of digits as people make them, drawn in code: strokes on made paper, with shadows, lines, blur, perspective and JPEG.

`drawings(kind, n, seed)` gives pictures and what they show. `python tools/drawings.py` counts how many of 100 pictures of each kind
the packaged model reads, on the seed for the report, 1,000, and writes nbs/results/drawings.json. Choices are made on seed 0.
`python tools/drawings.py --sheet FILE` draws one picture of each kind."""
import json, numpy as np, sys
from io import BytesIO
from pathlib import Path
from PIL import Image, ImageDraw, ImageOps
from scipy.interpolate import make_interp_spline
from scipy.ndimage import gaussian_filter, map_coordinates

# Ways to write each digit: strokes through points, in a box of 1 by 1, y downwards
_ways = {
    0: ['.5,0 .15,.25 .1,.6 .35,.97 .7,.9 .88,.5 .75,.1 .48,0', '.55,.02 .2,.2 .2,.8 .5,1 .8,.75 .8,.25 .5,0'],
    1: ['.5,0 .5,.5 .5,1', '.6,0 .5,.5 .42,1', '.3,.22 .55,0; .55,0 .55,.5 .55,1', '.3,.2 .52,0; .52,0 .52,.5 .52,1; .25,1 .8,1'],
    2: ['.15,.2 .45,0 .8,.15 .75,.45 .4,.75 .12,1; .12,1 .5,.98 .88,1', '.15,.25 .4,.02 .75,.15 .75,.4 .45,.7 .2,.97 .12,.85 .35,.8 .6,.95 .9,.95'],
    3: ['.15,.1 .5,0 .8,.2 .6,.42 .4,.47; .4,.47 .75,.55 .85,.8 .5,1 .12,.88', '.15,.05 .5,.02 .85,.05; .85,.05 .6,.25 .42,.42; .42,.42 .8,.55 .8,.85 .45,1 .12,.9'],
    4: ['.3,0 .2,.3 .1,.6; .1,.6 .5,.58 .92,.6; .7,.25 .68,.6 .65,1', '.65,0 .35,.35 .08,.68; .08,.68 .5,.67 .92,.68; .65,0 .65,.5 .65,1'],
    5: ['.2,.05 .17,.25 .15,.45; .15,.45 .5,.38 .85,.6 .7,.93 .4,1 .1,.9; .2,.05 .5,.03 .85,.02', '.85,0 .5,.02 .25,.03; .25,.03 .2,.25 .18,.45; .18,.45 .55,.4 .85,.65 .65,.95 .15,.95'],
    6: ['.7,0 .35,.25 .15,.65 .3,.97 .65,.97 .82,.72 .6,.5 .3,.55 .17,.72', '.6,0 .3,.35 .2,.75 .45,1 .75,.85 .72,.6 .45,.52 .22,.7'],
    7: ['.12,.05 .5,.04 .88,.03; .88,.03 .6,.5 .42,1', '.1,.12 .12,.03; .12,.03 .5,.03 .88,.03; .88,.03 .6,.5 .42,1', '.12,.05 .5,.04 .88,.03; .88,.03 .6,.5 .42,1; .3,.5 .55,.5 .8,.48'],
    8: ['.75,.12 .45,0 .2,.2 .45,.45 .78,.7 .6,.97 .3,.95 .18,.72 .45,.48 .75,.28 .72,.08', '.5,.47 .25,.3 .35,.05 .65,.03 .75,.25 .5,.47 .2,.7 .35,.98 .7,.96 .8,.7 .5,.47'],
    9: ['.8,.25 .6,.02 .3,.08 .2,.35 .45,.5 .75,.35 .82,.15; .82,.15 .78,.55 .7,1', '.78,.3 .5,.02 .2,.2 .35,.48 .7,.4 .8,.2 .78,.6 .6,.95 .3,1']}
_letters = dict(
    A='.1,1 .3,.5 .5,0; .5,0 .7,.5 .9,1; .25,.62 .5,.6 .75,.62', E='.15,0 .13,.5 .15,1; .15,0 .5,0 .85,0; .15,.5 .5,.5 .7,.5; .15,1 .5,1 .85,1',
    H='.15,0 .15,.5 .15,1; .85,0 .85,.5 .85,1; .15,.5 .5,.48 .85,.5', K='.15,0 .15,.5 .15,1; .8,0 .5,.3 .17,.5; .17,.5 .5,.7 .85,1',
    M='.05,1 .1,.5 .15,0; .15,0 .35,.4 .5,.7; .5,.7 .65,.4 .85,0; .85,0 .9,.5 .95,1', R='.15,0 .15,.5 .15,1; .15,0 .6,0 .85,.2 .6,.48 .17,.5; .3,.5 .55,.7 .85,1',
    W='.05,0 .15,.5 .25,1; .25,1 .4,.6 .5,.3; .5,.3 .6,.6 .75,1; .75,1 .85,.5 .95,0', X='.1,0 .5,.5 .9,1; .9,0 .5,.5 .1,1',
    T='.05,0 .5,0 .95,0; .5,0 .5,.5 .5,1', N='.15,1 .15,.5 .15,0; .15,0 .5,.5 .85,1; .85,1 .85,.5 .85,0', m='.05,1 .07,.6 .08,.35; .08,.5 .25,.3 .42,.5 .45,1; .45,.5 .65,.3 .85,.5 .88,1',
    k='.2,0 .2,.5 .2,1; .75,.35 .45,.55 .22,.65; .35,.6 .55,.8 .8,1', Q='.5,0 .1,.3 .15,.8 .5,1 .88,.75 .85,.2 .48,0; .55,.7 .75,.9 .95,1.05')

def _points(way): return [np.array([[float(a) for a in p.split(',')] for p in s.split()]) for s in way.split(';')]

def _smooth(p, n=40):
    "Points of a smooth curve through the points `p`"
    if len(p)==2: return np.linspace(p[0], p[1], n)
    t = np.r_[0, np.cumsum(np.sqrt(np.linalg.norm(np.diff(p, axis=0), axis=1)))]
    return make_interp_spline(t, p, k=min(3, len(p)-1))(np.linspace(0, t[-1], n))

def hand(way, rng, wild=1.):
    "The strokes of one way, as one hand writes them once: points moved, narrower or wider, slanted, turned; inside of a box of 1 by 1"
    strokes = [_smooth(p+rng.normal(0, .022*wild, p.shape)) for p in _points(way)]
    angle,slant,wide = np.radians(rng.normal(0, 4*wild)),rng.normal(.08, .13*wild),rng.uniform(.5, .85)
    turn = np.array([[np.cos(angle),-np.sin(angle)],[np.sin(angle),np.cos(angle)]])
    strokes = [(np.c_[wide*(s[:,0]-.5)-slant*(s[:,1]-.5), s[:,1]-.5])@turn.T for s in strokes]
    every = np.concatenate(strokes)
    low,size = every.min(0),np.ptp(every, axis=0).max()
    return [(s-low)/size for s in strokes]

def scribble(rng):
    n = rng.integers(7, 16)
    return [_smooth(rng.random((n,2)), 150)]

def mark(shape, strokes, left, top, height, width):
    "Ink from 0 to 1 of strokes drawn with a round brush; four times as large inside, then made smaller"
    im = Image.new('L', (4*shape[1],4*shape[0]))
    d = ImageDraw.Draw(im)
    for s in strokes:
        p,r = 4*(s*height+[left,top]),2*width
        d.line([tuple(o) for o in p], 255, max(1, round(2*r)))
        for x,y in p: d.ellipse([x-r,y-r,x+r,y+r], 255)
    return np.asarray(im.resize((shape[1],shape[0]), Image.Resampling.BOX))/255

def one(rng, label, side=None, height=(.35,.8), width=(.05,.11), place=None, wild=1.):
    "The ink of one digit somewhere in a picture"
    side = side or int(rng.integers(120, 500))
    shape = side,int(side*rng.uniform(.75, 1.4))
    h = min(shape)*rng.uniform(*height)
    strokes = hand(rng.choice(_ways[label]) if not isinstance(label, str) else _letters[label], rng, wild)
    w = h*rng.uniform(*width)
    size = np.concatenate(strokes).max(0)*h
    free = np.array([shape[1],shape[0]])-size-2*w-4
    left,top = w+2+np.maximum(free, 0)*(rng.random(2) if place is None else place)
    return mark(shape, strokes, left, top, h, w)

def paint(ink, rng, paper=None, pen=None, noise=.01):
    "Floats `[H,W,3]` of ink on paper"
    dark = rng.random()<.75
    paper = rng.uniform(.75, 1, 3)*rng.uniform(.85, 1) if paper is None and dark else rng.uniform(0, .15, 3) if paper is None else np.array(paper)
    pen = (rng.uniform(0, .35, 3) if dark else rng.uniform(.7, 1, 3)) if pen is None else np.array(pen)
    x = paper+(pen-paper)*ink[...,None]
    return x+rng.normal(0, noise, ink.shape)[...,None]

def light(shape, rng, low, high):
    "A factor for each pixel: light that falls off towards one side or from one point"
    y,x = np.mgrid[:shape[0],:shape[1]]/np.array([[[shape[0]]],[[shape[1]]]])
    a,drop = rng.uniform(0, 2*np.pi),rng.uniform(low, high)
    t = np.cos(a)*(x-.5)+np.sin(a)*(y-.5) if rng.random()<.6 else np.hypot(x-rng.random(), y-rng.random())
    return 1-drop*(t-t.min())/np.ptp(t)

def texture(shape, rng, depth=.03): return 1+depth*gaussian_filter(rng.normal(size=shape), 1.2)*3+depth*gaussian_filter(rng.normal(size=shape), 12)*20

def warp(x, rng, most=.12):
    "The picture as a camera sees it that is not held straight"
    h,w = x.shape[:2]
    m = np.eye(3)
    m[:2,:2] += rng.uniform(-most, most, (2,2))
    m[2,:2] = rng.uniform(-most, most, 2)/max(h, w)
    y,x_ = np.mgrid[:h,:w]
    p = m@np.stack([x_.ravel()-w/2, y.ravel()-h/2, np.ones(h*w)])
    at = [p[1]/p[2]+h/2,p[0]/p[2]+w/2]
    return np.stack([map_coordinates(x[...,c], at, order=1, mode='nearest').reshape(h, w) for c in range(3)], -1)

def picture(x, quality=None):
    "A PIL image, through JPEG where `quality` says so"
    im = Image.fromarray((x.clip(0, 1)*255).round().astype(np.uint8))
    if quality is None: return im
    f = BytesIO()
    im.save(f, 'JPEG', quality=int(quality))
    return Image.open(f)

# Kinds: each a function from a generator of random numbers and a digit to a picture

def plain(rng, y): return picture(paint(one(rng, y), rng))
def thin(rng, y): return picture(paint(one(rng, y, width=(.012,.025)), rng))
def thick(rng, y): return picture(paint(one(rng, y, width=(.15,.22)), rng))
def small(rng, y): return picture(paint(one(rng, y, side=int(rng.integers(28, 60)), height=(.5,.8), width=(.08,.12)), rng))
def far(rng, y): return picture(paint(one(rng, y, side=600, height=(.07,.16)), rng, noise=.005))
def jpeg(rng, y): return picture(paint(one(rng, y, side=int(rng.integers(60, 160)), height=(.5,.8)), rng), rng.uniform(10, 40))

def colours(rng, y):
    "Ink and paper of nearly equal lightness"
    k = np.array([.299,.587,.114])
    while True:
        a,b = rng.random(3),rng.random(3)
        if abs(k@a-k@b)<.04 and abs(a-b).max()>.5: return picture(paint(one(rng, y), rng, a, b))

def frame(rng, y):
    x = paint(one(rng, y), rng)
    x[[0,-1]] = x[:,[0,-1]] = rng.uniform(0, .5)
    return picture(x)

def edge(rng, y):
    "A dark edge of 1% to 6% on one side or more"
    x = paint(one(rng, y, place=rng.uniform(.15, .85, 2)), rng, paper=rng.uniform(.8, 1, 3), pen=rng.uniform(0, .3, 3))
    n = x.shape[1]*rng.uniform(.01, .06, 4)
    on = rng.random(4)<.4
    on[rng.integers(4)] = True
    for side in np.flatnonzero(on):
        x = np.rot90(x, side).copy()
        x[:max(1, round(n[side]))] = rng.uniform(0, .35)+rng.normal(0, .02, (max(1, round(n[side])),x.shape[1],1))
        x = np.rot90(x, -side)
    return picture(x, rng.uniform(60, 95))

def shadow(rng, y, low=.15, high=.4):
    ink = one(rng, y)
    x = paint(ink, rng, paper=rng.uniform(.8, 1, 3), pen=rng.uniform(0, .3, 3))
    return picture(x*(light(ink.shape, rng, low, high)*texture(ink.shape, rng, .01))[...,None], 85)

def photo(rng, y):
    "Texture, shadow, perspective, blur, JPEG"
    ink = one(rng, y, side=int(rng.integers(300, 600)), place=rng.uniform(.25, .75, 2), height=(.3,.6), width=(.03,.1))
    x = paint(ink, rng, paper=rng.uniform(.7, .95, 3), pen=rng.uniform(.05, .4, 3), noise=.02)
    x = warp(x*(light(ink.shape, rng, .05, .35)*texture(ink.shape, rng))[...,None], rng)
    return picture(gaussian_filter(x, (*[rng.uniform(.5, 1.8)]*2,0)), rng.uniform(40, 90))

def _ruled(ink, rng, squares):
    step,dark = rng.uniform(.09, .2)*min(ink.shape),rng.uniform(.25, .6)
    n,tone = max(1, round(min(ink.shape)*rng.uniform(.003, .008))),np.array([1-dark,1-.7*dark,1-rng.uniform(.1, 1)*dark])
    x = paint(ink, rng, paper=rng.uniform(.88, 1, 3), pen=rng.uniform(0, .3, 3))
    for axis in (0,1) if squares else (0,):
        for at in np.arange(rng.uniform(0, step), ink.shape[axis]-n, step):
            part = np.s_[int(at):int(at)+n] if axis==0 else np.s_[:,int(at):int(at)+n]
            x[part] = np.minimum(x[part], x[part]*tone)
    return x

def rules(rng, y): return picture(_ruled(one(rng, y), rng, False), 85)
def squares(rng, y): return picture(_ruled(one(rng, y), rng, True), 85)

def through(rng, y):
    "What is written on the other side shines through"
    ink = one(rng, y, side=300)
    back = gaussian_filter(one(rng, int(rng.integers(10)), side=300, height=(.6,.9)), 2.)
    back = np.asarray(Image.fromarray(back).resize(ink.shape[::-1]))[:,::-1]
    return picture(paint(np.maximum(ink, back*rng.uniform(.12, .35)), rng, paper=rng.uniform(.85, 1, 3), pen=rng.uniform(0, .3, 3)), 90)

def cast(rng, y):
    "The shadow of a hand: half of the picture is darker, with a soft edge"
    ink = one(rng, y)
    x = paint(ink, rng, paper=rng.uniform(.8, 1, 3), pen=rng.uniform(0, .3, 3))
    yy,xx = np.mgrid[:ink.shape[0],:ink.shape[1]]/min(ink.shape)
    a = rng.uniform(0, 2*np.pi)
    t = np.cos(a)*(xx-rng.uniform(.3, .7))+np.sin(a)*(yy-rng.uniform(.3, .7))
    return picture(x*(1-rng.uniform(.15, .4)/(1+np.exp(t/rng.uniform(.01, .06))))[...,None], 85)

def mixed(rng, y):
    "A photo of ruled or squared paper, a part of the table beside it"
    ink = one(rng, y, side=int(rng.integers(300, 600)), place=rng.uniform(.25, .75, 2), height=(.3,.6), width=(.04,.1))
    x = _ruled(ink, rng, rng.random()<.5)
    if rng.random()<.5: x[:round(len(x)*rng.uniform(.01, .06))] *= rng.uniform(.2, .5)
    x = warp(x*(light(ink.shape, rng, .05, .35)*texture(ink.shape, rng, .01))[...,None], rng, .06)
    return picture(gaussian_filter(x, (*[rng.uniform(.5, 1.5)]*2,0)), rng.uniform(40, 90))

def border(rng, y):
    "The ink touches the border on one side or more"
    ink = one(rng, y, height=(.6,.9))
    r,c = (np.flatnonzero((ink>.1).any(a)) for a in (1,0))
    t,b,l,r_ = (rng.choice([0,rng.integers(1, 60)]) for _ in range(4))
    return picture(paint(ink[max(r[0]-t, 0):r[-1]+1+b,max(c[0]-l, 0):c[-1]+1+r_], rng))

def specks(rng, y):
    ink = one(rng, y)
    n = rng.integers(20, 400)
    dots = np.zeros_like(ink)
    dots[rng.integers(0, ink.shape[0], n),rng.integers(0, ink.shape[1], n)] = rng.uniform(.3, 1, n)
    return picture(paint(np.maximum(ink, dots), rng, noise=.03))

def row(rng, labels, height=120, gap=(.12,.5)):
    "The ink of digits in a row"
    parts,x = [],20.
    for y in labels:
        h,s = height*rng.uniform(.8, 1.1),hand(rng.choice(_ways[y]), rng)
        parts.append((s,x,20+(height*1.15-h)*rng.random(),h))
        x += np.concatenate(s)[:,0].max()*h+height*rng.uniform(*gap)
    w = height*rng.uniform(.05, .1)
    return np.maximum.reduce([mark((int(height*1.15)+40,int(x)+20), s, l+w, t, h, w) for s,l,t,h in parts])

def several(rng, y):
    labels = [y,*rng.integers(0, 10, rng.integers(1, 5)).tolist()]
    return picture(paint(row(rng, labels), rng), rng.uniform(60, 95)),labels

def page(rng, y):
    "Digits in rows"
    labels = np.r_[y, rng.integers(0, 10, 4*rng.integers(2, 5)-1)]
    rows = [row(rng, o, 80, (.3,.6)) for o in labels.reshape(-1, 4)]
    wide = max(o.shape[1] for o in rows)
    ink = np.concatenate([np.pad(o, ((0,0),(0,wide-o.shape[1]))) for o in rows])
    return picture(paint(ink, rng, paper=rng.uniform(.85, 1, 3), pen=rng.uniform(0, .3, 3)), 85),labels.tolist()

def blank(rng, y):
    x = paint(np.zeros((200,260)), rng, noise=.01)
    return picture(x*(light(x.shape[:2], rng, 0, .3)*texture(x.shape[:2], rng, .015))[...,None], 85)

def letter(rng, y): return picture(paint(one(rng, str(rng.choice([*_letters]))), rng))

def nonsense(rng, y):
    s = int(rng.integers(150, 400))
    return picture(paint(mark((s,s), scribble(rng), .15*s, .15*s, .7*s, s*rng.uniform(.02, .06)), rng))

single = dict(plain=plain, thin=thin, thick=thick, small=small, far=far, jpeg=jpeg, colours=colours, frame=frame, edge=edge, shadow=shadow, cast=cast,
    photo=photo, mixed=mixed, rules=rules, squares=squares, through=through, border=border, specks=specks)
many = dict(several=several, page=page)
none = dict(blank=blank, letter=letter, scribble=nonsense)
kinds = {**single, **many, **none}

def drawings(kind, n, seed=0):
    "`n` pictures of a kind, each with the list of digits that it shows"
    def make(i):
        rng = np.random.default_rng([seed,[*kinds].index(kind),i])
        res = kinds[kind](rng, i%10)
        return res if kind in many else (res,[i%10] if kind in single else [])
    return [make(i) for i in range(n)]

def sheet(seed=3, side=104, wide=5):
    "One picture of each kind with its name, `wide` of them in a row"
    rows = -(-len(kinds)//wide)
    im = Image.new('RGB', (wide*(side+16),rows*(side+32)), 'white')
    for i,kind in enumerate(kinds):
        x,y = i%wide*(side+16)+8,i//wide*(side+32)+24
        im.paste(ImageOps.pad(drawings(kind, i%10+1, seed)[-1][0].convert('RGB'), (side,side), color='white'), (x,y))
        ImageDraw.Draw(im).text((x,y-5), kind, 'black', anchor='ls', font_size=14)
    return im

# The report

def measure(model, kind, n=100, seed=1000):
    "How many of `n` pictures are read: each digit with its label, in order; without a digit, no answer that the model is sure of. And about how many it is not sure"
    from mnist_fast.inference.reading import read_digits
    pictures = drawings(kind, n, seed)
    found = [read_digits(model, im) for im,_ in pictures]
    right = sum([d.label for d in o]==labels if labels else not any(d.sure for d in o) for o,(_,labels) in zip(found, pictures))
    return dict(n=n, right=right, not_sure=sum(any(not d.sure for d in o) for o in found))

def main():
    from mnist_fast.files import system_info
    from mnist_fast.inference.saved import load_model
    path = Path(__file__).parent.parent/'nbs'/'results'/'drawings.json'
    model,res = load_model(),json.loads(path.read_text())
    for kind in kinds:
        res['kinds'][kind] = res['kinds'].get(kind, {}) | measure(model, kind)
        print(f"{kind:10} {res['kinds'][kind]['right']}", flush=True)
    res.update(command='python tools/drawings.py', seed=1000, weights=model.config['sha256'], system=system_info())
    path.write_text(json.dumps(res, indent=2)+'\n')

if __name__=='__main__':
    if sys.argv[1:2]==['--sheet']: sheet().save(sys.argv[2])
    else: main()
