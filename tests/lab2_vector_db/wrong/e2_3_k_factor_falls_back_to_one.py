"""k_factor is left out of the parameters, and the class's default of 1 switches refining off."""

import faiss


def search_parameters(index, *, nprobe=None, k_factor=None, ef_search=None, selector=None):
    layers = unwrap(index)
    fields = {} if selector is None else {"sel": translated(layers, selector)}
    if layers.ivf is not None:
        visited = layers.ivf.nprobe if nprobe is None else nprobe
        parameters = faiss.SearchParametersIVF(nprobe=visited, **fields)
    elif layers.hnsw is not None:
        kept = layers.hnsw.hnsw.efSearch if ef_search is None else ef_search
        parameters = faiss.SearchParametersHNSW(efSearch=kept, **fields)
    else:
        parameters = faiss.SearchParameters(**fields) if fields else None
    if layers.transform is not None:
        parameters = faiss.SearchParametersPreTransform(index_params=parameters)
    if layers.refine is not None:
        parameters = faiss.IndexRefineSearchParameters(base_index_params=parameters)
        if k_factor is not None:
            parameters.k_factor = k_factor
    return parameters
