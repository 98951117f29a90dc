"""How Sphinx renders the site.

`make docs` writes the pages beside a copy of this file. Nothing is executed, and a reader's browser loads nothing from
other hosts.
"""

project, author, copyright = 'tracenb', 'tracenb authors', '2026 onwards, tracenb authors'
extensions = ['myst_nb', 'sphinx_design', 'sphinx_copybutton']
exclude_patterns = ['_static', '_extra', '**/.ipynb_checkpoints']

nb_execution_mode = 'off'  # notebooks carry their outputs
nb_ipywidgets_js = {}  # widgets need a kernel: pages show their static form
nb_merge_streams = True
nb_render_markdown_format = 'gfm'
nb_mime_priority_overrides = [('html', 'text/html', 10)]
myst_enable_extensions = ['dollarmath', 'colon_fence', 'deflist', 'html_image']
myst_heading_anchors = 3
myst_all_links_external = True  # links stay as written: `links.broken` checks each in the finished pages
suppress_warnings = ['myst.header', 'mystnb.unknown_mime_type']

mathjax_path = 'mathjax/tex-svg-full.js'
html_theme = 'pydata_sphinx_theme'
html_title = 'tracenb'
html_favicon = '_static/favicon.svg'
html_context = dict(default_mode='auto')
html_static_path = ['_static']
html_extra_path = ['_extra']
html_css_files = ['site.css']
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
html_theme_options = dict(
    icon_links=[dict(name='Source', url='https://github.com/tracenb/tracenb', icon='fa-brands fa-github')],
    navbar_align='left',
    header_links_before_dropdown=6,
    show_toc_level=2,
    navigation_with_keys=False,
    back_to_top_button=True,
    search_bar_text='Search pages and names',
    secondary_sidebar_items=['page-toc'],
    footer_start=['copyright'],
    footer_end=[],
    pygments_light_style='a11y-high-contrast-light',
    pygments_dark_style='a11y-high-contrast-dark',
)
html_sidebars = {'index': []}
