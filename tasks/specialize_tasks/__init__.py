"""SeqIO registrations of specialize: importing this package reads no data.

Its import name begins with the project's name, and the folder `tasks/` around it holds
no module, so that neither stands in the way of another project's `tasks`.
"""

import gin

# A configuration that was parsed in this process locks gin; names may still be added.
with gin.unlock_config():
    from . import benchmarks as benchmarks
    from . import distill as distill
    from . import text as text
