"""SeqIO registrations of specialize: importing this package reads no data.

Its name begins with the project's name, and the folder `tasks/` around it is no module,
so that another project may have a package `tasks`.
"""

import gin

# A configuration that was parsed in this process has locked gin.
with gin.unlock_config():
    from . import benchmarks as benchmarks
    from . import distill as distill
    from . import mixing as mixing
    from . import own as own
    from . import text as text
