import time
from tests.faults.test_crash import points, strike, COPIES
def test_try(first, later, behind, inspector):
    for scene,label in ((first,'first'),(later,'later'),(behind,'behind')):
      for dest in COPIES.values():
        if label=='behind' and len(dest)==1: continue
        t=time.time(); ps=points(scene,dest); t1=time.time(); print(label,dest,len(ps),round(t1-t,2))
        for p in ps:
            t=time.time()
            try: strike(scene,dest,p,inspector); print('ok', p.call,p.when,p.operation,p.name[:20], round(time.time()-t,2))
            except BaseException as e: print('FAIL', p, repr(e)[:900])
