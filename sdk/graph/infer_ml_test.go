package graph

import (
	"testing"
)

func TestInferTextAndLearning(t *testing.T) {
	testInference(t, []inference{
		{"concat", []string{"x = s[N,1]", "z = s[4]", "y = StringConcat(x,z)"}, "s[N,4]"},
		{"normalizer", []string{"x = s[N]", "y = StringNormalizer(x)"}, "s[?y.0]"},
		{"normalizer of rows", []string{"x = s[1,N]", "y = StringNormalizer(x)"}, "s[1,?y.1]"},
		{"normalizer of many rows", []string{"x = s[2,N]", "y = StringNormalizer(x)"}, "!first of two dimensions"},
		{"split", []string{"x = s[N,4]", "y,z = StringSplit(x)"}, "s[N,4,?y.2] i[N,4]"},
		{"regex", []string{"x = s[N,4]", "y = RegexFullMatch(x) pattern=a.*"}, "b[N,4]"},
		{"tfidf", []string{"x = i[N,12]", "y = TfIdfVectorizer(x) ngram_indexes=[4,0,6]"}, "f[N,7]"},
		{"tfidf of a list", []string{"x = i[12]", "y = TfIdfVectorizer(x) ngram_indexes=[0,1]"}, "f[2]"},
		{"tfidf of too much", []string{"x = i[1,2,3]", "y = TfIdfVectorizer(x) ngram_indexes=[0,1]"}, "!wants [C] or [N,C]"},
		{"features", []string{"x = f[N,8]", "z = i[3]", "y = ai.onnx.ml:ArrayFeatureExtractor(x,z)"}, "f[N,3]"},
		{"features of a list", []string{"x = f[8]", "z = i[1,3]", "y = ai.onnx.ml:ArrayFeatureExtractor(x,z)"}, "f[1,3]"},
		{"binarizer", []string{"x = d[N,8]", "y = ai.onnx.ml:Binarizer(x)"}, "d[N,8]"},
		{"labels", []string{"x = s[N]", "y = ai.onnx.ml:LabelEncoder(x) values_int64s=[1,2]"}, "i[N]"},
		{"trees", []string{"x = f[N,8]", "y = ai.onnx.ml:TreeEnsemble(x) n_targets=3"}, "f[N,3]"},
		{"trees of a list", []string{"x = f[N]", "y = ai.onnx.ml:TreeEnsemble(x) n_targets=3"}, "!wants rank 2"},
		{"flex", []string{"q = h[B,8,S,64]", "k = h[B,2,T,64]", "v = h[B,2,T,32]", "y = ai.onnx.preview:FlexAttention(q,k,v)"}, "h[B,8,S,32]"},
		{"flex contradiction", []string{"q = h[B,8,S,64]", "k = h[B,2,T,32]", "y = ai.onnx.preview:FlexAttention(q,k,k)"}, "!head size"},
		{"momentum", []string{"r = f[]", "t = i[]", "a = f[N]", "b = d[2,3]", "p,q,v,w = ai.onnx.preview.training:Momentum(r,t,a,b,a,b,a,b)"},
			"f[N] d[2,3] f[N] d[2,3]"},
		{"adam", []string{"r = f[]", "t = i[]", "a = f[N]", "p,v,h = ai.onnx.preview.training:Adam(r,t,a,a,a,a)"}, "f[N] f[N] f[N]"},
		{"adam of too few", []string{"r = f[]", "t = i[]", "a = f[N]", "p,v = ai.onnx.preview.training:Adam(r,t,a,a,a)"}, "!for each variable"},
		{"determinant", []string{"x = f[B,H,3,3]", "y = Det(x)"}, "f[B,H]"},
		{"determinant of no square", []string{"x = f[B,2,3]", "y = Det(x)"}, "!square"},
		{"multinomial", []string{"x = f[B,9]", "y = Multinomial(x) sample_size=5 dtype=7"}, "i[B,5]"},
		{"picture", []string{"x = u[N]", "y = ImageDecoder(x) pixel_format=Grayscale"}, "u[?y.0,?y.1,1]"},
	})
}
