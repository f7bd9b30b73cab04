"scikit-learn's MLPClassifier: 50 hidden units, 5 epochs of Adam with its own defaults"
import warnings
from sklearn.neural_network import MLPClassifier
from common import Clock, args, digits, done

a = args(epochs=5)
x,y,xt,yt = digits(a.file)
x,xt = (o.reshape(-1,784).astype('float32')/255 for o in (x,xt))
model = MLPClassifier((50,), max_iter=a.epochs, random_state=a.seed)
warnings.filterwarnings('ignore')
with Clock() as c: model.fit(x, y)
done(c, model.score(xt, yt), epochs=a.epochs)
