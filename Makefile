# Everything runs in .venv, made from requirements.lock. `make run` and `make test` need nothing else. Programs of .venv
# are called as `python -m`, because the first line of their files cannot name every path of a .venv.
PYTHON ?= python3
# These are for the command line, and not taken from the environment, where they may mean something else.
CORES := all
CONFIGS :=
$(foreach config,$(CONFIGS),$(if $(wildcard $(config)),,$(error CONFIGS names $(config), but there is no such file)))
# As config/config.yaml says, or for example: make run WEIGHTS=official
WEIGHTS := $(shell sed -n 's/^weights: *\([a-z]*\).*/\1/p' config/config.yaml)
# One variant instead of those in config/config.yaml.
VARIANT :=
# Your own checkpoint, a file or folder. PART says which backbone of several, IGNORE which other tensors to leave out,
# NAME what to call the results, which otherwise have the file's name:
# make run CHECKPOINT=last.ckpt PART=teacher.backbone IGNORE='head.* center' NAME=teacher
# With VARIANT it is the publisher's file of that variant.
CHECKPOINT :=
PART :=
NAME :=
IGNORE :=
# In the environment, because there any character of a path is only itself, but for the dollar of make: write $$.
export CHECKPOINT PART IGNORE NAME
ifneq ($(CHECKPOINT),)
  override WEIGHTS := $(if $(VARIANT),official,own)
endif
OWN := $(if $(filter own,$(WEIGHTS)),$(if $(CHECKPOINT),results/own/config.json))
BIN := .venv/bin

# The Python of .venv has all that it needs, and knows nothing of another's settings.
unexport $(filter PYTHON%,$(.VARIABLES))
export PYTHONUTF8 := 1
# Snakemake needs a folder for its cache, which containers without a home do not have.
CACHE := $(shell cache="$${XDG_CACHE_HOME:-$${HOME:-/none}/.cache}"; mkdir -p "$$cache" 2> /dev/null && test -w "$$cache" && echo yes)
ifeq ($(CACHE),)
  export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
endif

.PHONY: run proof check test test-slurm benchmark runtimes lock

run: .venv/installed
	@$(if $(OWN),set -f; $(BIN)/python -m vit2onnx.describe "$$CHECKPOINT" --config $(OWN) \
	  $(if $(NAME),--name "$$NAME") $(if $(PART),--part "$$PART") $(if $(IGNORE),--ignore $$IGNORE))
	rm -f results/$(WEIGHTS)/report.html
	$(BIN)/python -m snakemake --cores $(CORES) $(if $(CONFIGS)$(OWN),--configfile $(CONFIGS) $(OWN)) \
	  --config weights=$(WEIGHTS) $(if $(VARIANT),variants=$(VARIANT)) \
	  $(if $(CHECKPOINT),$(if $(VARIANT),"official={checkpoints: {$(VARIANT): \"$$CHECKPOINT\"}}")) \
	  --report results/$(WEIGHTS)/report.html --report-after-run

# The same, and where drift begins, stage by stage, and the checks put to the test themselves.
proof: CONFIGS := config/whole_proof.yaml
proof: run

# Two test files at a time, because most of them use one core.
test: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# In two minutes: format, lint, types, and the tests that run no large model and no workflow.
check: .venv/installed
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/workflow/test_quality.py tests/workflow/test_environments.py \
	  tests/spec tests/weights tests/nn tests/parity/test_verdict.py

# Two tiny variants through a real Slurm, which runs on this machine for as long as the tests take: five to ten minutes.
# Needs root, 5 GB of memory, and: apt-get install --no-install-recommends slurm-wlm munge
test-slurm: .venv/installed
	$(BIN)/python -m pytest tests/slurm

# The ONNX files of a variant against other exporters and runtimes, in a quarter of an hour. OPTIONS are those of
# benchmarks.suite: make benchmark OPTIONS='--batches 1 8 --threads 2'. All others in benchmarks/ are run by name.
OPTIONS :=
benchmark: .venv/installed
	$(BIN)/python -m benchmarks.suite results/$(WEIGHTS)/$(or $(VARIANT),dinov3_vits16_pretrain_lvd1689m) $(OPTIONS)

# Other runtimes, installed into .runtimes/ (2 GB), open the graphs that `make run` has made, and are compared. RUNTIMES
# names some of them: make runtimes RUNTIMES=openvino_f32,tract
RUNTIMES :=
runtimes: .venv/installed
	$(BIN)/python -m vit2onnx.runtimes --install --runtimes '$(RUNTIMES)' results/$(WEIGHTS)

# Torch's own requirement of CUDA packages is left to pip, because a CPU build of torch has none.
lock:
	uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --no-header --quiet \
	  $(foreach package,$(CUDA),--no-emit-package $(package)) --output-file requirements.lock
CUDA := cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti nvidia-cuda-nvrtc \
  nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
  nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx triton

.venv/installed: requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("vit2onnx needs Python 3.11 or newer; name one: make PYTHON=python3.12" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	touch $@
