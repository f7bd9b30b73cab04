"The picture of the page to draw on in the README: a five, drawn with the mouse in Chromium. Run by `python tools/page_picture.py`"
import numpy as np, shutil
from io import BytesIO
from pathlib import Path
from PIL import Image
from playwright.sync_api import sync_playwright
from drawings import hand
from mnist_fast.inference.page import model_page

chromium = next(filter(None, map(shutil.which, ('chromium','chromium-browser','google-chrome'))), None)
five = '.2,.05 .17,.25 .15,.45; .15,.45 .5,.38 .85,.6 .7,.93 .4,1 .1,.9; .2,.05 .5,.03 .85,.02'

def draw(page, strokes):
    "Strokes from 0 to 1 in the middle of the drawing area, with the mouse"
    o = page.locator('#pad').bounding_box()
    for s in strokes:
        points = [(o['x']+o['width']*(.31+.6*x),o['y']+o['height']*(.2+.6*y)) for x,y in s]
        page.mouse.move(*points[0])
        page.mouse.down()
        for p in points[1:]: page.mouse.move(*p)
        page.mouse.up()

def screenshot(page):
    "From the top to the end of the third card"
    card = page.locator('.card').nth(2).bounding_box()
    page.mouse.move(0, 0)
    return page.screenshot(clip=dict(x=0, y=0, width=page.viewport_size['width'], height=card['y']+card['height']+12))

if __name__=='__main__':
    with sync_playwright() as p, p.chromium.launch(executable_path=chromium, args=['--no-sandbox']) as browser:
        page = browser.new_page(viewport=dict(width=1160, height=1000), color_scheme='light')
        page.set_content(model_page())
        draw(page, hand(five, np.random.default_rng(4)))
        page.wait_for_timeout(1000)
        picture = Image.open(BytesIO(screenshot(page))).convert('RGB').quantize(128, dither=Image.Dither.NONE)
    picture.save(Path(__file__).parent.parent/'nbs'/'images'/'page.png', optimize=True)
