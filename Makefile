# Two commands: `make reproduce` and `make test`. Both build .venv first; they need only Python 3.11-3.13 (with venv) and make.
#
#   make env             the environment in .venv, exact versions from constraints.txt, files by their sha256 from hashes.txt
#   make reproduce       run notebooks/table2_recon.ipynb as it stands; print its table and where the results lie
#   make table2_recon    run one notebook (any of notebooks/): make table2_recon PRESET=sd15 ARGS="-p num_images 8"
#   make test            lint, book, unit tests, notebooks, in this order
#   make lint            ruff on code and notebooks; is there anything that `make strip` would drop?
#   make book            the pages, in _build/html
#   make unit            the tests in tests/
#   make notebooks       every notebook with the small settings of configs/smoke
#   make sd15-rehearsal  every preset of configs/sd15 on random weights of the real architecture: works, seconds, memory; ARGS="--width slim"
#   make torture         kills, damaged files and bad input by the hundred, and what became of them: 10 minutes; ARGS="--kills 10"
#   make record          keep a finished run of `make NAME`: its outputs in notebooks/, its record in data/results; then `make refresh`
#   make keep            the same without `make refresh`
#   make results         record every page whose code, settings, weights or data have changed, then `make refresh`: hours on a CPU, resumable
#   make retrain         print how everything that ships is trained again, from the scenes on; YES=1 does it: a day on a CPU, resumable
#   make app             a page on this machine (127.0.0.1): walk, reconstruct, edit and drag by hand, base model and Smooth side by side
#   make refresh         run summary, claims and status again and keep them; let tables and README show the records
#   make adapters        train the adapters of configs/adapters.yaml that are not there: hours on a CPU
#   make readme          write the numbers of data/ between the markers of README.md
#   make strip           drop from notebooks/ what a run left in their metadata; outputs stay
#   make clean           remove what these made, except .venv and runs (per-item results, reused by the next run)
#   make help            this list
#
#   Settings, given behind the command:
#   PYTHON=python3.12    the interpreter that the environment is made with
#   VENV=folder          where the environment is (.venv)
#   PRESET=sd15          run a notebook with the parameters in configs/PRESET/; its run lies in out/PRESET, its record in data/results/PRESET
#   EXECUTOR=local:2     who computes a notebook's items: N processes here, slurm:N, tcp://host:port, a Dask scheduler's .json; see book/run_it.md
#   PRECISION=float16    how the UNet multiplies where no gradient is taken: float16 or bfloat16; empty, float32 (with PRESET=colab_t4 float16)
#   REUSE=1              take stored results that other code computed; without it they are computed again
#   ARGS="..."           more options for papermill, such as -p num_images 8 or -y "adapters: [folder]"
#   NAME=train_base      the notebook that `make record` keeps (table2_recon)
#   ONLY="table1_istd"   the pages that `make results` looks at (all)
#   PLAN=1               `make results` only prints what it would do
#   ALL=1                `make results` records current pages too
#   MODEL=mini           what `make app` loads: mini, a folder with a diffusers pipeline, or a hub id
#   ADAPTER=smooth       its Smooth-LoRA: a name in data/models/adapters, or a folder
#   PORT=7860            where `make app` serves
#   WORKERS=2            processes among which `make test` deals out the test files
#   YES=1                `make retrain` begins; without it the stages are printed
#   FROM=decoder         the stage that `make retrain` begins with (scenes)
#   OPEN=                the program that opens the page of `make reproduce`; empty: none

PYTHON ?= python3
VENV ?= .venv
PRESET ?=
NAME ?= table2_recon
REUSE ?=
EXECUTOR ?=
PRECISION ?= $(if $(filter colab_t4,$(PRESET)),float16)
ARGS ?=
ONLY ?=
PLAN ?=
ALL ?=
FROM ?=
YES ?=
MODEL ?= mini
ADAPTER ?= smooth
PORT ?= 7860

$(if $(word 2,[$(VENV)]),$(error VENV is "$(VENV)", but must be a folder without spaces in its name))

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NOTEBOOKS := $(patsubst notebooks/%.ipynb,%,$(wildcard notebooks/*.ipynb))
OPEN ?= $(if $(CI),,$(if $(filter Darwin,$(shell uname)),open,$(if $(DISPLAY)$(WAYLAND_DISPLAY),xdg-open)))
STRIP := --keep-output --keep-count --keep-id --extra-keys "metadata.papermill metadata.language_info.version cell.metadata.papermill"

# What runs of another model leave lies apart, as do their records: out/sd15, data/results/sd15. `smoke` and `record` are of the embedded one.
PLACE := $(addprefix /,$(filter-out smoke record,$(PRESET)))
ifneq ($(PLACE),)
export SMOOTHLIB_OUT := $(CURDIR)/out$(PLACE)
endif

# The kernel of this environment, whatever kernels the user has; no pip notices among the results.
export JUPYTER_PREFER_ENV_PATH := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export SMOOTHLIB_REUSE ?= $(REUSE)
export SMOOTHLIB_EXECUTOR ?= $(EXECUTOR)
export SMOOTHLIB_PRECISION ?= $(PRECISION)

.PHONY: help env app reproduce test lint unit notebooks book strip keep record torture results retrain refresh adapters readme clean sd15-rehearsal \
  $(NOTEBOOKS)
.DEFAULT_GOAL := help

help:
	@sed -n 's/^#   //p' Makefile

env: $(STAMP)

$(STAMP): pyproject.toml constraints.txt hashes.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else f"PYTHON is {v.major}.{v.minor}, but must be 3.11, 3.12 or 3.13")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --prefer-binary --no-deps --require-hashes --requirement hashes.txt
	$(BIN)/python -m pip install --quiet --prefer-binary --constraint constraints.txt --editable '.[book,live,test,dev]'
	@touch $@

# A preset that is missing is named before anything is installed or run.
$(addprefix preset-,$(NOTEBOOKS)): preset-%:
	@test -z "$(PRESET)" || test -f "configs/$(PRESET)/$*.yaml" || \
	  { echo "PRESET is $(PRESET), but for $* must be one of: $(or $(patsubst configs/%/$*.yaml,%,$(wildcard configs/*/$*.yaml)),none)." >&2; exit 1; }

# What an earlier run left goes first: a run that fails must leave no record.
$(NOTEBOOKS): %: preset-% env
	@mkdir -p out$(PLACE)
	@rm -f $(addprefix out$(PLACE)/$@,.ipynb .json .html)
	$(BIN)/papermill notebooks/$@.ipynb out$(PLACE)/$@.ipynb --cwd notebooks $(if $(PRESET),-f configs/$(PRESET)/$@.yaml) $(ARGS)
	$(BIN)/jupyter-nbconvert --log-level WARN --to html --template offline --TemplateExporter.extra_template_basedirs=book/_templates out$(PLACE)/$@.ipynb

reproduce: table2_recon
	@echo
	@$(BIN)/python -m companion.evidence show out/table2_recon.json
	@echo
	@echo "Page:     out/table2_recon.html"
	@echo "Notebook: out/table2_recon.ipynb"
	@echo "Record:   out/table2_recon.json"
	@$(if $(OPEN),$(OPEN) out/table2_recon.html || true)

# $(call timed,name,command): run, print how long it took, keep the exit code.
timed = @start=$$(date +%s); $(2); code=$$?; echo "==> $(1): $$(( $$(date +%s) - start )) s"; exit $$code

# Test files are dealt out to WORKERS processes of one thread each; the tests of one file stay together, and so do the cells of a notebook.
WORKERS ?= 2
SHARED = OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --durations 5

# In this order, also under make -j: the unit tests look at the built pages.
test: env
	@start=$$(date +%s); \
	$(MAKE) --no-print-directory lint && $(MAKE) --no-print-directory book && $(MAKE) --no-print-directory unit && \
	$(MAKE) --no-print-directory notebooks; code=$$?; \
	echo "==> make test: $$(( $$(date +%s) - start )) s, $$([ $$code = 0 ] && echo passed || echo FAILED)"; exit $$code

lint: env
	$(call timed,lint,$(BIN)/ruff check && $(BIN)/ruff format --check && $(BIN)/nbstripout --verify $(STRIP) notebooks/*.ipynb)

unit: env
	$(call timed,unit tests,$(SHARED) tests)

notebooks: env
	$(call timed,notebooks,$(SHARED) --nbval-lax --nbval-current-env --nb-preset smoke notebooks)

book: env
	$(call timed,book,$(BIN)/jupyter-book build . -W -n --keep-going)

sd15-rehearsal: env
	$(BIN)/python tools/sd15_rehearsal.py $(ARGS)

torture: env
	$(BIN)/python tools/torture.py $(ARGS)

# Before committing a notebook: keep its outputs, drop what the run left in its metadata.
strip: env
	$(BIN)/nbstripout $(STRIP) notebooks/*.ipynb

# Looks first, installs then: without a run there is nothing to keep. Pages in notebooks/ are those of the embedded model.
keep:
	@test -f out$(PLACE)/$(NAME).ipynb || { echo "There is no out$(PLACE)/$(NAME).ipynb to keep: run 'make $(NAME)' first, or name another notebook with NAME=." >&2; exit 1; }
	@$(MAKE) --no-print-directory env
	$(BIN)/python tools/keep_run.py $(NAME)
	$(BIN)/nbstripout $(STRIP) out$(PLACE)/kept/$(NAME).ipynb
	@mkdir -p data/results$(PLACE)
	$(if $(PLACE),,cp out/kept/$(NAME).ipynb notebooks/)
	if [ -f out$(PLACE)/kept/$(NAME).json ]; then cp out$(PLACE)/kept/$(NAME).json data/results$(PLACE)/; fi

record: keep
	@$(if $(PLACE),env -u SMOOTHLIB_OUT) $(MAKE) --no-print-directory refresh PRESET= ARGS=

# The pages that show all records, and the tables of the others.
refresh: summary claims status
	$(BIN)/python tools/keep_run.py summary claims status
	$(BIN)/nbstripout $(STRIP) out/kept/summary.ipynb out/kept/claims.ipynb out/kept/status.ipynb
	cp out/kept/summary.ipynb out/kept/claims.ipynb out/kept/status.ipynb notebooks/
	$(BIN)/python tools/keep_run.py --comparisons
	$(BIN)/python tools/update_readme.py

# Both print what they will do and how long it takes before they begin, and go on after an interruption.
results: env
	$(BIN)/python tools/make_results.py $(if $(ONLY),--only $(ONLY)) $(if $(PLAN),--plan) $(if $(ALL),--all)

retrain: env
	$(BIN)/python tools/retrain.py $(if $(YES),--yes) $(if $(FROM),--from $(FROM))

# The page's only requirement beside the library, Tornado, is Jupyter's as well: the environment has it.
app: env
	$(BIN)/python -m companion.app --model "$(MODEL)" --adapter "$(ADAPTER)" --port "$(PORT)" $(ARGS)

adapters: env
	$(BIN)/python tools/train_adapters.py

readme: env
	$(BIN)/python tools/update_readme.py

clean:
	rm -rf out _build .hypothesis .pytest_cache .ruff_cache
