"""Parts of `controls`: the extra trainings, compression by principal components, scores, the page."""
