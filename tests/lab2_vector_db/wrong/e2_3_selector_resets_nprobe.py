"""A filtered search passes the selector alone, and visits one list."""

import faiss


def search_parameters(index, *, nprobe=None, k_factor=None, ef_search=None, selector=None):
    layers = unwrap(index)
    fields = {} if selector is None else {"sel": translated(layers, selector)}
    if layers.ivf is not None:
        visited = layers.ivf.nprobe if nprobe is None else nprobe
        parameters = faiss.SearchParametersIVF(**(fields or {"nprobe": visited}))
    elif layers.hnsw is not None:
        kept = layers.hnsw.hnsw.efSearch if ef_search is None else ef_search
        parameters = faiss.SearchParametersHNSW(efSearch=kept, **fields)
    else:
        parameters = faiss.SearchParameters(**fields) if fields else None
    if layers.transform is not None:
        parameters = faiss.SearchParametersPreTransform(index_params=parameters)
    if layers.refine is not None:
        factor = layers.refine.k_factor if k_factor is None else k_factor
        parameters = faiss.IndexRefineSearchParameters(
            k_factor=factor, base_index_params=parameters
        )
    return parameters
