"""The mesh and the kind of device for which a computation is traced."""

import jax
from jax._src import mesh as mesh_library
from jax.sharding import AbstractMesh, AxisType, Mesh


def ambient_mesh() -> Mesh | AbstractMesh | None:
    """The mesh of `jax.set_mesh` or `with mesh:`; None inside `jax.shard_map`."""
    abstract = jax.sharding.get_abstract_mesh()
    if not abstract.empty:
        return None if AxisType.Manual in abstract.axis_types else abstract
    # T5X enters its mesh by `with mesh:`, which JAX keeps but no longer exposes. If JAX
    # removes it, the compiler decides what devices exchange.
    resources = getattr(mesh_library, "thread_resources", None)
    mesh = resources.env.physical_mesh if resources is not None else None
    return None if mesh is None or mesh.empty else mesh


def platform_of(mesh: Mesh | AbstractMesh | None) -> str:
    """The platform of the mesh's devices, which need not exist on this machine."""
    abstract = mesh.abstract_mesh if isinstance(mesh, Mesh) else mesh
    device = None if abstract is None else abstract.abstract_device
    return jax.default_backend() if device is None else device.platform
