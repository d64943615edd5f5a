"""efSearch is left out of the parameters: the default of 16 replaces what the graph was given."""

import faiss


def search_parameters(index, *, nprobe=None, k_factor=None, ef_search=None, selector=None):
    layers = unwrap(index)
    fields = {} if selector is None else {"sel": translated(layers, selector)}
    if layers.ivf is not None:
        visited = layers.ivf.nprobe if nprobe is None else nprobe
        parameters = faiss.SearchParametersIVF(nprobe=visited, **fields)
    elif layers.hnsw is not None:
        parameters = faiss.SearchParametersHNSW(**fields)
        if ef_search is not None:
            parameters.efSearch = ef_search
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
