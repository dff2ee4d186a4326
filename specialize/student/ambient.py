"""Where a computation finds itself: under which mesh, on what kind of device."""

import jax
from jax._src import mesh as mesh_library
from jax.sharding import AbstractMesh, AxisType, Mesh


def ambient_mesh() -> Mesh | AbstractMesh | None:
    """The mesh of `jax.set_mesh` or `with mesh:`, unless we are inside its shards."""
    abstract = jax.sharding.get_abstract_mesh()
    if not abstract.empty:
        manual = AxisType.Manual in abstract.axis_types
        return None if manual else abstract
    # T5X enters its mesh the older way, which jax keeps but no longer exposes. Should
    # it go, nothing breaks: the compiler then decides what to exchange.
    resources = getattr(mesh_library, "thread_resources", None)
    mesh = resources.env.physical_mesh if resources is not None else None
    return None if mesh is None or mesh.empty else mesh


def platform_of(mesh: Mesh | AbstractMesh | None) -> str:
    """What the mesh's devices are; a mesh may be of chips that are not here."""
    abstract = mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh
    device = None if abstract is None else abstract.abstract_device
    return jax.default_backend() if device is None else device.platform
