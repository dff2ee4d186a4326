"""Signals to a run of several processes."""

import signal

import pytest

from specialize.processes import signals


def test_ctrl_c_in_one_of_several_processes_is_the_sigterm_that_jax_listens_for(
    monkeypatch,
):
    import jax

    from specialize.training.loop import interruptions

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        with interruptions.stop_on_signals():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)  # a double
            assert seen == [signal.SIGTERM]
            monkeypatch.setattr(signals, "DOUBLE", 0.0)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert seen == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGINT) is interrupt
    finally:
        signal.signal(signal.SIGTERM, before)
