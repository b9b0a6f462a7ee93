package constrain

// formats are patterns of the formats that are enforced. They may be narrower than the
// format: leap seconds, quoted local parts of addresses and the like never come.
// Other formats are annotations, as JSON Schema has it.
var formats = func() map[string]string {
	const (
		// Days are counted, leap years too.
		date = `(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))` +
			`|(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)`
		clock = `([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,9})?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)`
		span  = `(\d{1,4}H(\d{1,4}M(\d{1,4}S)?)?|\d{1,4}M(\d{1,4}S)?|\d{1,4}S)`
		label = `[0-9a-zA-Z]{1,20}(-[0-9a-zA-Z]{1,20}){0,1}`
		octet = `(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)`
		group = `[0-9a-fA-F]{1,4}`
		path  = `([0-9A-Za-z._~!$&'()*+,;=:@/-]|%[0-9A-F]{2})*`
	)
	return map[string]string{
		"date":      `^` + date + `$`,
		"time":      `^` + clock + `$`,
		"date-time": `^` + date + `T` + clock + `$`,
		"duration":  `^P(\d{1,4}W|(\d{1,4}Y(\d{1,4}M(\d{1,4}D)?)?|\d{1,4}M(\d{1,4}D)?|\d{1,4}D)(T` + span + `)?|T` + span + `)$`,
		"uuid":      `^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$`,
		"email":     `^[0-9A-Za-z_+-]{1,20}(\.[0-9A-Za-z_+-]{1,20}){0,2}@` + label + `(\.` + label + `){1,3}$`,
		"hostname":  `^` + label + `(\.` + label + `){0,4}$`,
		"ipv4":      `^` + octet + `(\.` + octet + `){3}$`,
		"ipv6":      `^(` + group + `(:` + group + `){7}|(` + group + `:){1,6}(:` + group + `)|(` + group + `:){1,7}:|:(:` + group + `){1,7}|::)$`,
		"uri":       `^[a-z][a-z0-9]{0,11}://` + label + `(\.` + label + `){0,4}(:[1-9]\d{0,3})?(/` + path + `)?(\?` + path + `)?(#` + path + `)?$`,
	}
}()
