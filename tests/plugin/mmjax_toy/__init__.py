"""A package of parts for mmjax: a task, an adapter, a corpus, an evaluator, an encoder family."""
