package devpg

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
)

// PasswordVerifier is what PostgreSQL stores for a password, to be given as the password in `create
// role` and to initdb, which both take it as it stands. The form is RFC 5803's.
//
// It asks for one iteration where PostgreSQL would make 4096: stretching protects passwords that can be
// guessed, ours are 128 random bits, and every connection of every test would pay for it.
func PasswordVerifier(password string) (string, error) {
	const iterations = 1
	salt := make([]byte, 16)
	rand.Read(salt) // never fails
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("derive a password verifier: %w", err)
	}
	sign := func(key []byte, text string) []byte {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(text))
		return mac.Sum(nil)
	}
	stored := sha256.Sum256(sign(salted, "Client Key"))
	encode := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s",
		iterations, encode(salt), encode(stored[:]), encode(sign(salted, "Server Key"))), nil
}
