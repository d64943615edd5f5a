"""Only the codes are counted, not what the candidates are scored again with."""


def memory(recipe, dimension, n_vectors, *, with_ids=False):
    kept = recipe.code_dimension(dimension)
    structure, code = recipe.structure, recipe.code
    lists = structure.n_lists if isinstance(structure, IVF) else 0
    each = code_bytes(recipe, dimension)

    in_lists = ID_BYTES if lists else 0
    mapped = ID_BYTES if with_ids and not recipe.keeps_ids else 0
    padding = 0.0
    if recipe.fast_scan:
        padding = lists * MEAN_PADDING if lists else float(-n_vectors % BLOCK)
    centroid = float(FLOAT_BYTES * kept)
    if isinstance(structure, IVF) and structure.centroids == "hnsw":
        centroid += graph_bytes(CENTROID_LINKS)
    codebooks = 0
    if isinstance(code, PQ):
        codebooks = FLOAT_BYTES * kept * 2**code.bits
    elif isinstance(code, SQ):
        codebooks = _range_bytes(code, kept)
    elif isinstance(code, RaBitQ) and not lists:
        codebooks = FLOAT_BYTES * kept
    refined = 0
    return Memory(
        ids=float(n_vectors * (in_lists + mapped)),
        codes=float(n_vectors * each),
        graph=n_vectors * graph_bytes(structure.m) if isinstance(structure, HNSW) else 0.0,
        refine=float(n_vectors * refined),
        padding=padding * each,
        centroids=float(lists * centroid),
        codebooks=float(codebooks),
        rotation=float(FLOAT_BYTES * dimension * kept) if recipe.rotation else 0.0,
    )
