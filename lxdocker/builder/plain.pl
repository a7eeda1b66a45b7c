# plain.pl: copies a tar byte for byte, except for its global headers (pax(1), typeflag g). umoci takes these for files
# of an unknown kind; Docker skips them, too. Anything unknown is left to umoci.
binmode STDIN;
binmode STDOUT;

sub take {
	my ($size) = @_;
	my $taken = '';
	while (length $taken < $size) {
		my $count = read STDIN, $taken, $size - length $taken, length $taken;
		defined $count or die "reading a layer failed: $!\n";
		last unless $count;
	}
	return $taken;
}

sub give { print STDOUT $_[0] or die "passing on a layer failed: $!\n" }

sub pass {
	my ($size, $dropped) = @_;
	while ($size > 0) {
		my $piece = take($size < 1 << 20 ? $size : 1 << 20);
		length $piece or last;
		give($piece) unless $dropped;
		$size -= length $piece;
	}
}

sub rest { pass(9**20); close STDOUT or die "passing on a layer failed: $!\n"; exit 0 }

# Octal digits, or a large number in base 256.
sub number {
	my ($field) = @_;
	return oct $1 if $field =~ /^[ \0]*([0-7]*)[ \0]*/ && !(ord($field) & 0x80);
	my $number = ord($field) & 0x7f;
	$number = $number * 256 + $_ for unpack 'x C*', $field;
	return $number;
}

my $next; # the size of the next member, from a header
while (1) {
	my $header = take(512);
	if (length $header < 512 || $header =~ /^\0/) { give($header); rest() }
	my $sum = unpack('%32C148', $header) + 8 * 32 + unpack('x156 %32C356', $header);
	if ($sum != number(substr $header, 148, 8)) { give($header); rest() }
	my $kind = substr $header, 156, 1;
	my $size = $kind =~ /^[1-6]/ ? 0 : defined $next && $kind !~ /^[xgLK]/ ? $next : number(substr $header, 124, 12);
	my $padded = $size + -$size % 512;
	if ($kind eq 'g') { pass($padded, 1); next }
	give($header);
	if ($kind eq 'x' && $size <= 1 << 20) {
		my $records = take($padded);
		give($records);
		# The last one applies.
		while ($records =~ /\G([0-9]+) /gc) {
			my $length = $1 - length("$1 ");
			last if $length < 1 || pos($records) + $length > $size;
			my $record = substr $records, pos $records, $length;
			$next = $1 if $record =~ /^size=([0-9]+)\n/;
			pos($records) += $length;
		}
		next;
	}
	pass($padded);
	undef $next unless $kind =~ /^[LK]/;
}
