def summarise(root):
    pass
