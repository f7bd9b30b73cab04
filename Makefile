# Each habit of the project as one target: `make help` lists them. Any of them except help sets up .venv the first time.
PYTHON ?= python3
SEEDS ?= 1
PORT ?= 8000
BIN := .venv/bin
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
OTHERS := --ignore tests/test_notebooks.py --ignore tests/test_site.py --ignore tests/test_page.py
FLAGS := $(if $(MNIST_FAST_DATA),mnist slow,slow)

.PHONY: help demo test portable prepare notebook file docs docs-check docs-serve quarto readme weights picture bench hooks dist
test file: export OMP_NUM_THREADS = 1

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(BIN)/.installed  ## train and test both tasks, and every rung of the chapter; SEEDS=5 for five runs of each
	$(BIN)/mnist_fast train --task 3v7 --recipe simple_net --out $(RUN)/3v7
	$(BIN)/mnist_fast train --task full --recipe cnn --out $(RUN)/full
	$(BIN)/mnist_fast ladder --seeds $(SEEDS) --out $(RUN)/ladder
	@echo "Models, figures and plots are in $(RUN)"

test: $(BIN)/.installed  ## run all tests in two processes of one thread each; those that measure time afterwards, alone
	$(BIN)/chkstyle .
	$(BIN)/nbdev-test --flags "$(FLAGS)"
	$(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not alone' $(OTHERS)
	$(BIN)/pytest -m alone $(shell grep -l mark.alone tests/test_*.py)

portable: $(BIN)/.installed  ## run the modules' notebooks on PyTorch's simplest instructions, with two threads (a test does it for the tutorials)
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive \
		$(BIN)/nbdev-test --n-workers 2 --skip-folder-re '^([_.]|tutorials)'

notebook: $(BIN)/.installed  ## run the cells of one notebook: make notebook NB=nbs/21_loss.ipynb
	$(BIN)/nbdev-test $(NB) --flags "$(FLAGS)"

file: $(BIN)/.installed  ## run one file of tests: make file T=tests/test_loss.py
	$(BIN)/pytest -q $(T)

prepare: $(BIN)/.installed  ## after a change: modules from notebooks, clean notebooks, README, style
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python tools/readme.py
	$(BIN)/chkstyle .

docs: $(BIN)/.docs  ## build the site into _docs, and check it
	$(BIN)/python tools/site/build.py

docs-check: $(BIN)/.docs  ## open the site that was built and the page to draw on in Chromium, if there is one
	$(BIN)/pytest -n 2 --dist loadfile -q -rs -k 'not test_time' tests/test_site.py tests/test_page.py
	$(BIN)/pytest -q -rs -k test_time tests/test_page.py

docs-serve: $(BIN)/.docs  ## show the site that was built on 127.0.0.1; PORT=8000
	$(BIN)/python -m http.server --bind 127.0.0.1 --directory _docs $(PORT)

quarto: $(BIN)/.installed  ## build the same notebooks with nbdev-docs, where Quarto is installed
	@if command -v quarto >/dev/null; then $(BIN)/nbdev-docs; else echo "Quarto is not installed (https://quarto.org). The site needs it only here: make docs works without."; fi

readme: $(BIN)/.installed  ## README.md and CONTRIBUTING.md from their notebooks
	$(BIN)/python tools/readme.py

picture: $(BIN)/.installed  ## the picture of the README, from the results of the benchmark
	$(BIN)/python tools/picture.py

weights: $(BIN)/.installed  ## train the models of the package again, and write their card
	$(BIN)/python tools/weights.py

bench: $(BIN)/.installed  ## measure all figures again: an hour and a half on an idle machine
	$(BIN)/pip install --quiet --requirement bench/requirements.txt
	$(BIN)/mnist_fast bench --full

hooks: $(BIN)/.installed  ## nbdev's hooks for git, which keep notebooks clean and merge them
	$(BIN)/nbdev-install-hooks

dist: $(BIN)/.installed  ## build the sdist and the wheel into dist, and check them
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

$(BIN)/.installed: pyproject.toml settings.ini setup.py
	@echo "Installing into .venv: a few minutes and 6 GB the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

$(BIN)/.docs: $(BIN)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]'
	touch $@
