package guard

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/crypto/bcrypt"
)

// User logs in with a password.
type User struct {
	Name         string
	PasswordHash string // bcrypt
	Role         Role
}

// Bounds of a file of users and of passwords. bcrypt reads 72 bytes of a password and no more.
const (
	maxUsers       = 10_000
	maxUserLine    = 1000
	maxName        = 64
	minPassword    = 8
	maxPassword    = 72
	passwordCost   = 12
	maxBcryptCost  = 15 // a second or two
	howToWriteUser = "write name:role:hash, as offstage password prints it"
)

// ParseUsers reads a file of users: lines of name:role:hash, where the hash is bcrypt's; empty lines, and those that begin
// with #, are left out. Errors name the line and quote no hash.
func ParseUsers(r io.Reader) ([]User, error) {
	var users []User
	lines := map[string]int{}
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxUserLine)
	n := 0
	for in.Scan() {
		n++
		text := strings.TrimSpace(strings.TrimPrefix(in.Text(), "\ufeff"))
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		parts := strings.Split(text, ":")
		if len(parts) != 3 {
			return nil, fmt.Errorf("line %d: it has %d parts, 3 are needed: %s", n, len(parts), howToWriteUser)
		}
		u := User{Name: parts[0], PasswordHash: parts[2]}
		if err := checkName(u.Name); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		var err error
		if u.Role, err = ParseRole(parts[1]); err != nil {
			// It is not quoted: it may be a password.
			return nil, fmt.Errorf("line %d: the role of %q is not known, use viewer, operator or admin: %s", n, u.Name, howToWriteUser)
		}
		if err := u.check(); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if first := lines[u.Name]; first > 0 {
			return nil, fmt.Errorf("line %d: the user %q is in line %d already: leave one out", n, u.Name, first)
		}
		if len(users) == maxUsers {
			return nil, fmt.Errorf("line %d: there are more than %d users: let a proxy authenticate them", n, maxUsers)
		}
		lines[u.Name] = n
		users = append(users, u)
	}
	switch err := in.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("line %d: it has more than %d bytes: %s", n+1, maxUserLine, howToWriteUser)
	case err != nil:
		return nil, err
	case len(users) == 0:
		return nil, errors.New("there are no users in it: " + howToWriteUser)
	}
	return users, nil
}

func (u *User) check() error {
	if err := checkName(u.Name); err != nil {
		return err
	}
	if !u.Role.valid() {
		return fmt.Errorf("the user %q has no role: use viewer, operator or admin", u.Name)
	}
	cost, err := bcrypt.Cost([]byte(u.PasswordHash))
	switch {
	case err != nil || len(u.PasswordHash) != 60:
		return fmt.Errorf("what the user %q has is no bcrypt hash: type offstage password %s", u.Name, u.Name)
	case cost > maxBcryptCost:
		return fmt.Errorf("the hash of the user %q has a cost of %d, at most %d is allowed: type offstage password %s", u.Name, cost, maxBcryptCost, u.Name)
	}
	return nil
}

// checkName keeps names to what can be shown, and written in a line. It quotes little of what may be a password in the wrong place.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the user has no name: " + howToWriteUser)
	case !utf8.ValidString(name) || utf8.RuneCountInString(name) > maxName:
		return fmt.Errorf("the name of the user is no UTF-8, or has more than %d characters", maxName)
	case strings.ContainsFunc(name, func(r rune) bool { return r == ':' || r == '"' || !unicode.IsGraphic(r) }) ||
		strings.TrimSpace(name) != name || name[0] == '#':
		return errors.New("the name of the user begins with #, or has a colon, a quote, a control character or outer spaces: use letters, digits and .-_@")
	}
	return nil
}

// UserLine makes a line of a file of users.
func UserLine(name string, role Role, password string) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	if !role.valid() {
		return "", errors.New("the user has no role: use viewer, operator or admin")
	}
	switch n := len(password); {
	case n > maxPassword:
		return "", fmt.Errorf("the password has %d bytes, at most %d count: use a shorter one", n, maxPassword)
	case utf8.RuneCountInString(password) < minPassword:
		return "", fmt.Errorf("the password has fewer than %d characters: use a longer one, such as four words", minPassword)
	}
	hash, err := bcrypt.GenerateFromPassword([]byte(password), passwordCost)
	if err != nil {
		return "", err
	}
	return name + ":" + role.String() + ":" + string(hash), nil
}
