"""The page of `keras-meta app`.

`images` and `curves` hold what a visitor has put in and predict it with the code of
`keras-meta learn`, `models` loads entries, `saving` writes tasks and adapted models.
None of them imports Gradio. `page` puts `image_tab` and `curve_tab` on a page, `pad` is
where a visitor draws.
"""
