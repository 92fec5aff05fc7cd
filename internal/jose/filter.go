package jose

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
)

const (
	minRSABits = 2048 // RFC 7518 sections 3.3 and 3.5
	maxRSABits = 8192 // beyond, one verification costs too much
)

// set copies pub into the key, if its signatures can be trusted (RFC 8725
// sections 3.4 and 3.5).
func (k *Key) set(pub crypto.PublicKey) error {
	switch pub := pub.(type) {
	case *rsa.PublicKey:
		if pub == nil || pub.N == nil {
			return errors.New("no RSA key")
		}
		if err := checkRSA(pub); err != nil {
			return err
		}
		k.kind = "RSA"
		k.pub = &rsa.PublicKey{N: new(big.Int).Set(pub.N), E: pub.E}
		k.sigSize = pub.Size()
	case *ecdsa.PublicKey:
		if pub == nil || pub.Curve == nil || pub.X == nil || pub.Y == nil {
			return errors.New("no EC key")
		}
		switch pub.Curve {
		case elliptic.P256(), elliptic.P384(), elliptic.P521():
		default:
			return errors.New("EC curve not supported")
		}
		point, err := pub.Bytes()
		if err != nil {
			return errors.New("EC point not on the curve")
		}
		own, err := ecdsa.ParseUncompressedPublicKey(pub.Curve, point)
		if err != nil {
			return errors.New("EC point not on the curve")
		}
		k.kind = pub.Curve.Params().Name
		k.pub = own
		k.sigSize = len(point) - 1 // r and s, each the size of a coordinate (RFC 7518 section 3.4)
	case ed25519.PublicKey:
		if err := checkEd25519(pub); err != nil {
			return err
		}
		k.kind = "Ed25519"
		k.pub = ed25519.PublicKey(bytes.Clone(pub))
		k.sigSize = ed25519.SignatureSize
	default:
		return fmt.Errorf("public key type %T not supported", pub)
	}
	return nil
}

func checkRSA(pub *rsa.PublicKey) error {
	switch bits := pub.N.BitLen(); {
	case pub.N.Sign() <= 0 || bits < minRSABits || bits > maxRSABits:
		return fmt.Errorf("RSA modulus of %d bits, want %d to %d", bits, minRSABits, maxRSABits)
	case pub.N.Bit(0) == 0:
		return errors.New("RSA modulus is even")
	case pub.E < 3 || pub.E%2 == 0 || pub.E > math.MaxInt32: // crypto/rsa takes no larger one
		return errors.New("RSA exponent out of range")
	case hasROCA(pub.N):
		return errors.New("RSA key of a vulnerable generator (CVE-2017-15361)")
	}
	return nil
}

// rocaPrimes are the small primes modulo which 65537 generates only a part of
// the residues.
var rocaPrimes = [...]uint64{11, 13, 17, 19, 37, 53, 61, 71, 73, 79, 97, 103, 107, 109, 127, 151, 157}

// hasROCA recognises moduli of the vulnerable Infineon generator
// (CVE-2017-15361). Each of its primes, and so their product, is a power of
// 65537 modulo every small prime. A sound modulus passes for one with a
// probability of about 2^-28.
func hasROCA(n *big.Int) bool {
	var rest big.Int
	for _, p := range rocaPrimes {
		r := rest.Mod(n, new(big.Int).SetUint64(p)).Uint64()
		power := uint64(1)
		for power != r {
			if power = power * 65537 % p; power == 1 {
				return false // once around without meeting r
			}
		}
	}
	return true
}

// The field prime 2^255-19 and the constant d of edwards25519 (RFC 8032 section
// 5.1).
var (
	edP, _ = new(big.Int).SetString("7fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffed", 16)
	edD, _ = new(big.Int).SetString("52036cee2b6ffe738cc740797779e89800700a4d4141d8ab75eb4dca135978a3", 16)
)

// checkEd25519 refuses what is not the encoding of a point (RFC 8032 section
// 5.1.3), and points of small order, for which anyone can make signatures.
//
// A point is given by y; x² is (y²-1)/(dy²+1). Its order divides 8 exactly
// if y is 1 or -1 (orders 1, 2), 0 (order 4), or solves dy⁴+2y²-1 = 0 (order
// 8: doubling gives y = 0).
func checkEd25519(pub ed25519.PublicKey) error {
	if len(pub) != ed25519.PublicKeySize {
		return errors.New("Ed25519 key of the wrong size")
	}
	bigEndian := bytes.Clone(pub)
	slices.Reverse(bigEndian)
	bigEndian[0] &= 0x7f // the sign of x
	y := new(big.Int).SetBytes(bigEndian)
	if y.Cmp(edP) >= 0 {
		return errors.New("Ed25519 key is not a point")
	}
	one := big.NewInt(1)
	y2 := new(big.Int).Mul(y, y)
	y2.Mod(y2, edP)
	dy2 := new(big.Int).Mul(edD, y2)
	u := new(big.Int).Sub(y2, one)
	v := new(big.Int).Add(dy2, one)
	// u/v is a square exactly if uv is; v is never 0.
	if big.Jacobi(new(big.Int).Mul(u, v), edP) < 0 {
		return errors.New("Ed25519 key is not a point")
	}
	eight := dy2.Add(dy2, big.NewInt(2)) // dy⁴+2y²-1 = (dy²+2)y²-1
	eight.Mul(eight, y2).Sub(eight, one).Mod(eight, edP)
	if u.Sign() == 0 || y.Sign() == 0 || eight.Sign() == 0 {
		return errors.New("Ed25519 key of small order")
	}
	return nil
}
