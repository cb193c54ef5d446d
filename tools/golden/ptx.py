"""Compiles the CUDA kernels of crates/ptx/tests/golden with NVRTC: writes the .ptx beside each .cu.

    pip install nvidia-cuda-nvrtc
    python tools/golden/ptx.py [FOLDER]

FOLDER holds libnvrtc.so; without it, that of the installed package is taken.
"""

import ctypes
import pathlib
import sys

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "crates" / "ptx" / "tests" / "golden"
OPTIONS = [b"--gpu-architecture=compute_80", b"--std=c++17"]


def library(folder):
    """NVRTC, with its builtins loaded first."""
    if folder is None:
        import nvidia.cu13

        folder = pathlib.Path(next(iter(nvidia.cu13.__path__))) / "lib"
    for builtins in sorted(folder.glob("libnvrtc-builtins.so*")):
        ctypes.CDLL(str(builtins), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(sorted(folder.glob("libnvrtc.so*"))[0]))


def compile(nvrtc, path):
    """PTX of a source file."""
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), path.read_bytes(), path.name.encode(), 0, None, None)
    failed = nvrtc.nvrtcCompileProgram(program, len(OPTIONS), (ctypes.c_char_p * len(OPTIONS))(*OPTIONS))
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    if failed:
        sys.exit(f"{path.name}: {log.value.decode()}")
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    return ptx.value.decode().strip() + "\n"


def main():
    nvrtc = library(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else None)
    for path in sorted(GOLDEN.glob("*.cu")):
        ptx = compile(nvrtc, path)
        assert len(ptx) < 20_000, f"{path.name}: {len(ptx)} bytes"
        path.with_suffix(".ptx").write_text(ptx)


if __name__ == "__main__":
    main()
