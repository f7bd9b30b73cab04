# make demo: train and test both tasks.  make test: all the tests, with one thread, so that they last as long beside another program.
# make portable: the notebooks on PyTorch's simplest instructions, with two threads.  Each sets up .venv the first time.
PYTHON ?= python3
SEEDS ?= 1
BIN := .venv/bin
RUN := runs/demo-$(shell date +%Y%m%d-%H%M%S)
FLAGS := $(if $(MNIST_FAST_DATA),mnist slow,slow)

.PHONY: demo test portable readme weights
test: export OMP_NUM_THREADS = 1

demo: $(BIN)/.installed
	$(BIN)/mnist_fast train --task 3v7 --recipe simple_net --out $(RUN)/3v7
	$(BIN)/mnist_fast train --task full --recipe cnn --out $(RUN)/full
	$(BIN)/mnist_fast ladder --seeds $(SEEDS) --out $(RUN)/ladder
	@echo "Models, figures and plots are in $(RUN)"

test: $(BIN)/.installed
	$(BIN)/chkstyle .
	$(BIN)/nbdev-test --flags "$(FLAGS)"
	$(BIN)/pytest --ignore tests/test_notebooks.py

portable: $(BIN)/.installed
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=2 $(BIN)/nbdev-test --n-workers 1

weights: $(BIN)/.installed
	$(BIN)/python tools/weights.py

readme: $(BIN)/.installed
	$(BIN)/python tools/readme.py

$(BIN)/.installed: pyproject.toml settings.ini setup.py
	@echo "Installing into .venv: a few minutes and 6 GB the first time"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@
