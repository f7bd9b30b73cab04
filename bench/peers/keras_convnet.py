"The network and settings of Keras' simple convnet example, on JAX (its fastest backend on a CPU)"
import os
os.environ['KERAS_BACKEND'] = 'jax'
import keras
from keras import layers
from common import Clock, args, digits, done

a = args(epochs=1)
keras.utils.set_random_seed(a.seed)
x,y,xt,yt = digits(a.file)
x,xt = (o[...,None].astype('float32')/255 for o in (x,xt))
model = keras.Sequential([keras.Input((28,28,1)), layers.Conv2D(32, 3, activation='relu'), layers.MaxPooling2D(),
    layers.Conv2D(64, 3, activation='relu'), layers.MaxPooling2D(), layers.Flatten(), layers.Dropout(.5), layers.Dense(10, activation='softmax')])
model.compile('adam', 'sparse_categorical_crossentropy', metrics=['accuracy'])
with Clock() as c: model.fit(x, y, batch_size=128, epochs=a.epochs, verbose=0)
done(c, model.evaluate(xt, yt, verbose=0)[1], epochs=a.epochs)
