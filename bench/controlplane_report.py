def show(say,result): pass
def plot(result,path): pass
