"""SeqIO registrations of specialize: importing this package reads no data."""

from tasks import benchmarks as benchmarks
from tasks import distill as distill
from tasks import text as text
